"""The bucket storage against Ceph's S3: what the everyday tests ask of rclone, and what
rclone does not know.

Ceph must be there: without it these tests fail. ``make test-ceph`` installs it where it
can.
"""

import asyncio
import hashlib
import json
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import tests.serving.test_s3_storage as any_server
from animatediff.engine import Engine
from animatediff.errors import ConfigurationError, StorageError
from animatediff.serving.fitness import check_bucket
from animatediff.serving.job import JobRunner
from animatediff.serving.progress import BarProgress
from animatediff.serving.storage import CHECK_NAME, S3Storage, make_storage
from animatediff.serving.worker import Worker
from animatediff.settings import Settings
from animatediff.video import EncodedVideo, read_metadata
from lab.queue.s3_server import S3Server
from schemas import JobOutput, parse_job_input, render_job_output
from tests.ceph.cluster import Cluster, ceph_cluster
from tests.serving.test_s3_storage import CONTENT, LARGE, bucket, fetch, file_of
from tests.video.decoding import decode_frames

READER, WRITER = {"access_key_id": "AKIDREADER"}, {"access_key_id": "AKIDWRITER"}
"""Users who may only read, and only write. They share the owner's secret key."""
SMALL = {
    "prompt": "a red circle",
    "num_frames": 4,
    "num_inference_steps": 2,
    "width": 64,
    "height": 64,
}

at_once = any_server.at_once


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with (
        tempfile.TemporaryDirectory(prefix="ceph-") as folder,
        ceph_cluster(Path(folder)) as running,
    ):
        running.add_user("reader", READER["access_key_id"], running.server.secret_key)
        running.add_user("writer", WRITER["access_key_id"], running.server.secret_key)
        yield running


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> S3Server:
    client = cluster.server.client()
    for name in ("clips", "public", "versions"):
        client.create_bucket(Bucket=name)
    client.put_bucket_versioning(
        Bucket="versions", VersioningConfiguration={"Status": "Enabled"}
    )
    allow(client, "clips", "arn:aws:iam:::user/reader", "s3:GetObject", "s3:ListBucket")
    allow(client, "clips", "arn:aws:iam:::user/writer", "s3:PutObject")
    allow(client, "public", "*", "s3:GetObject")
    return cluster.server


def allow(client: Any, name: str, who: str, *actions: str) -> None:
    """One more statement in the policy of bucket ``name``."""
    try:
        policy = json.loads(client.get_bucket_policy(Bucket=name)["Policy"])
    except client.exceptions.ClientError:  # there is none yet
        policy = {"Version": "2012-10-17", "Statement": []}
    resources = [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"]
    policy["Statement"].append(
        {
            "Effect": "Allow",
            "Principal": {"AWS": [who]},
            "Action": list(actions),
            "Resource": resources,
        }
    )
    client.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))


class TestBucket(any_server.TestBucket):
    """The tests of any server, and what rclone has not: versions, ETags of parts,
    policies, public buckets.
    """

    def test_the_same_job_makes_one_version(
        self, server: S3Server, tmp_path: Path
    ) -> None:
        settings = bucket(server, "v", name="versions")
        for content in (CONTENT, CONTENT, CONTENT[::-1]):
            S3Storage(settings).put(file_of(content, tmp_path), "j")
        versions = server.client().list_object_versions(Bucket="versions", Prefix="v/")[
            "Versions"
        ]
        assert [each["Size"] for each in versions] == [len(CONTENT)] * 2
        assert [each["IsLatest"] for each in versions] == [True, False]

    def test_the_server_counts_the_parts(
        self, server: S3Server, tmp_path: Path
    ) -> None:
        S3Storage(bucket(server, "parts")).put(file_of(LARGE, tmp_path), "j")
        result = server.client().head_object(Bucket="clips", Key="parts/j.mp4")
        assert result["ETag"].endswith('-3"')
        assert result["ContentLength"] == len(LARGE)

    def test_a_public_bucket_needs_no_signature(
        self, server: S3Server, clip: EncodedVideo
    ) -> None:
        base = f"{server.url}/public"
        url = S3Storage(bucket(server, "ü b", name="public", public_base_url=base)).put(
            clip, "j"
        )
        assert url == f"{base}/%C3%BC%20b/j.mp4"
        assert fetch(url) == (CONTENT, "video/mp4")

    def test_keys_that_may_not_write_are_found_at_the_start(
        self, server: S3Server, clip: EncodedVideo
    ) -> None:
        reader = bucket(server, "read", **READER)
        with pytest.raises(ConfigurationError, match=r"clips .* AccessDenied"):
            check_bucket(Settings(bucket=reader))
        with pytest.raises(StorageError) as caught:
            S3Storage(reader).put(clip, "j")
        assert caught.value.details["reason"] == "AccessDenied"
        assert server.keys("read/") == []

    def test_keys_that_may_only_write_are_enough(
        self, server: S3Server, clip: EncodedVideo
    ) -> None:
        """They may not ask whether the file is there, and read what they own."""
        writer = bucket(server, "write", **WRITER)
        check_bucket(Settings(bucket=writer))
        url = S3Storage(writer).put(clip, "j")
        assert "write/j.mp4" in server.keys("write/")
        assert fetch(url) == (CONTENT, "video/mp4")


def work(engine: Engine, settings: Settings, job: Mapping[str, Any]) -> JobOutput:
    """The output of ``job`` from a worker that has just started."""
    runner = JobRunner(
        engine, make_storage(settings), settings, parse_job_input, render_job_output
    )
    answer = asyncio.run(Worker(runner, lambda _job: BarProgress())(job))
    return JobOutput.model_validate(answer)


def test_a_whole_job_and_the_same_again(server: S3Server, tmp_path: Path) -> None:
    settings = Settings(
        bucket=bucket(server, key_template="jobs/{job_id}-{sha256:.12}{suffix}"),
        on_platform=True,
    )
    engine, job = Engine(settings), {"id": "job-1", "input": SMALL}
    output = work(engine, settings, job)
    path = tmp_path / "clip.mp4"
    with urllib.request.urlopen(output.url, timeout=30) as answer:
        assert answer.headers["Content-Type"] == output.mime == "video/mp4"
        path.write_bytes(answer.read())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == output.sha256
    assert decode_frames(path).shape == (4, 64, 64, 3)
    assert read_metadata(path)["request"]["prompt"] == SMALL["prompt"]
    keys = server.keys("jobs/")
    key = f"jobs/job-1-{output.sha256[:12]}.mp4"
    assert [each for each in keys if CHECK_NAME not in each] == [key]
    stored = server.client().head_object(Bucket="clips", Key=key)["LastModified"]
    again = work(engine, settings, job)
    assert again.url.split("?")[0] == output.url.split("?")[0]
    assert server.keys("jobs/") == keys
    assert (
        server.client().head_object(Bucket="clips", Key=key)["LastModified"] == stored
    )
