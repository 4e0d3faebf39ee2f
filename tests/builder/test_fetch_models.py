"""builder.fetch_models against a hub on loopback, and the manifest against the catalog."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_hub import CONTENT, give, hub_answer, row
from test_downloads import COMMIT, Answer, Site

from animatediff import catalog
from builder.fetch_models import main
from builder.manifest import ManifestError, read_manifest

ROOT = Path(__file__).parents[2]
Make = Callable[..., Path]


@pytest.fixture
def run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Ends as the command does, with what it said."""

    def call(
        manifest: Path, *arguments: str, profile: str = "small"
    ) -> tuple[int, str]:
        models = str(tmp_path / "models")
        code = main(
            [
                "--profile",
                profile,
                "--manifest",
                str(manifest),
                "--models-dir",
                models,
                *arguments,
            ]
        )
        said = capsys.readouterr()
        assert said.out == ""
        return code, said.err

    return call


def files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    )


def asked(hub: Site, method: str = "GET") -> list[str]:
    return [
        path for kind, path, _ in hub.asked if kind == method and "/resolve/" in path
    ]


def test_a_pinned_file_gets_its_place(
    hub: Site, manifest: Make, run: Callable, tmp_path: Path
) -> None:
    give(hub, hub_answer())
    code, said = run(manifest(row()))
    assert code == 0
    assert "weights/file.bin: 2048 bytes, checked" in said
    assert files(tmp_path / "models") == ["weights/file.bin"]
    assert (tmp_path / "models/weights/file.bin").read_bytes() == CONTENT


def test_what_is_here_is_not_asked_for(
    hub: Site, manifest: Make, run: Callable
) -> None:
    give(hub, hub_answer())
    path = manifest(row())
    run(path)
    hub.asked.clear()
    code, said = run(path)
    assert (code, hub.asked) == (0, [])
    assert "1 of 1 files are here" in said


def test_what_is_here_but_wrong_is_fetched_anew(
    hub: Site, manifest: Make, run: Callable, tmp_path: Path
) -> None:
    target = tmp_path / "models/weights/file.bin"
    target.parent.mkdir(parents=True)
    target.write_bytes(CONTENT[::-1])
    give(hub, hub_answer())
    assert run(manifest(row()))[0] == 0
    assert target.read_bytes() == CONTENT


def test_several_at_once(
    hub: Site, manifest: Make, run: Callable, tmp_path: Path
) -> None:
    names = [f"file{i}.bin" for i in range(6)]
    for name in names:
        give(hub, hub_answer(), file=name)
    path = manifest(*(row(file=name, target=name) for name in names))
    assert run(path, "--jobs", "3")[0] == 0
    assert files(tmp_path / "models") == names


@pytest.mark.parametrize(
    "change", [{"sha256": "0" * 64}, {"bytes": 2047}], ids=["sha256", "bytes"]
)
def test_a_mismatch_keeps_nothing(
    change: dict, hub: Site, manifest: Make, run: Callable, tmp_path: Path
) -> None:
    give(hub, hub_answer())
    code, said = run(manifest(row(**change)), "--cache", str(tmp_path / "cache"))
    assert code == 1
    assert "FAILED owner/repo/folder/file.bin: has" in said
    assert "expected" in said
    assert files(tmp_path / "models") == []
    assert not list((tmp_path / "cache").rglob("file.bin"))


def test_one_failure_does_not_stop_the_others(
    hub: Site, manifest: Make, run: Callable, tmp_path: Path
) -> None:
    give(hub, hub_answer(), file="good.bin")
    give(hub, Answer(b"", 404, {"X-Error-Code": "EntryNotFound"}), file="none.bin")
    path = manifest(
        row(file="good.bin", target="good.bin"), row(file="none.bin", target="none.bin")
    )
    code, said = run(path, "--jobs", "1", "--cache", str(tmp_path / "cache"))
    assert code == 1
    assert "FAILED owner/repo/none.bin: HTTP 404" in said
    assert files(tmp_path / "models") == ["good.bin"]


@pytest.mark.parametrize(
    ("status", "headers"), [(401, {}), (403, {"X-Error-Code": "GatedRepo"})]
)
def test_a_gate_is_said_to_need_a_token(
    status: int, headers: dict, hub: Site, manifest: Make, run: Callable
) -> None:
    give(hub, Answer(b"", status, headers))
    code, said = run(manifest(row()))
    assert code == 1
    assert "--secret id=hf_token" in said


def test_the_token_comes_from_a_file(
    hub: Site,
    manifest: Make,
    run: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    (tmp_path / "token").write_text("hf_from_a_file\n")
    monkeypatch.setattr(
        constants, "HF_TOKEN_PATH", str(tmp_path / "token")
    )  # what the variable HF_TOKEN_PATH sets
    give(hub, hub_answer())
    code, said = run(manifest(row()))
    assert code == 0
    assert {
        h.get("authorization") for _, path, h in hub.asked if "/resolve/" in path
    } == {"Bearer hf_from_a_file"}
    assert "hf_from_a_file" not in said


def test_a_broken_download_goes_on_where_it_broke(
    hub: Site,
    manifest: Make,
    run: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)
    monkeypatch.setattr(
        constants, "DOWNLOAD_CHUNK_SIZE", 256
    )  # less than what arrives before the break
    half = len(CONTENT) // 2
    rest = hub_answer(CONTENT[half:], status=206)
    rest.headers["Content-Range"] = f"bytes {half}-{len(CONTENT) - 1}/{len(CONTENT)}"
    give(hub, hub_answer(), hub_answer(CONTENT[:half], length=len(CONTENT)), rest)
    code, said = run(manifest(row()))
    assert code == 0, said
    assert (tmp_path / "models/weights/file.bin").read_bytes() == CONTENT
    ranges = [
        headers.get("range")
        for method, path, headers in hub.asked
        if method == "GET" and "/resolve/" in path
    ]
    assert ranges == [None, f"bytes={half}-"]


def test_a_second_run_fetches_only_what_is_missing(
    hub: Site, manifest: Make, run: Callable, tmp_path: Path
) -> None:
    path = manifest(
        row(file="a.bin", target="a.bin"), row(file="b.bin", target="b.bin")
    )
    give(hub, hub_answer(), file="a.bin")
    give(hub, Answer(b"", 404, {"X-Error-Code": "EntryNotFound"}), file="b.bin")
    assert run(path)[0] == 1
    hub.asked.clear()
    give(hub, hub_answer(), file="b.bin")
    assert run(path)[0] == 0
    assert asked(hub) == [f"/owner/repo/resolve/{COMMIT}/b.bin"]
    assert files(tmp_path / "models") == ["a.bin", "b.bin"]


def test_a_kept_cache_serves_the_next_run(
    hub: Site, manifest: Make, run: Callable, tmp_path: Path
) -> None:
    give(hub, hub_answer())
    path, cache = manifest(row()), str(tmp_path / "cache")
    run(path, "--cache", cache)
    (tmp_path / "models/weights/file.bin").unlink()
    hub.asked.clear()
    assert run(path, "--cache", cache)[0] == 0
    assert asked(hub) == asked(hub, "HEAD") == []
    assert files(tmp_path / "models") == ["weights/file.bin"]


@pytest.mark.parametrize("field", ["revision", "sha256", "bytes"])
def test_unpinned_is_refused(
    field: str, hub: Site, manifest: Make, run: Callable, tmp_path: Path
) -> None:
    code, said = run(
        manifest(row(), row(file="other.bin", target="other.bin", **{field: None}))
    )
    assert code == 2
    assert "not pinned: owner/repo/other.bin" in said
    assert "make pin" in said
    assert hub.asked == []
    assert not (tmp_path / "models").exists()


def test_unpinned_is_taken_when_it_is_allowed(
    hub: Site, manifest: Make, run: Callable, tmp_path: Path
) -> None:
    give(hub, hub_answer(), revision="main")
    code, said = run(
        manifest(row(revision=None, sha256=None, bytes=None)), "--allow-unpinned"
    )
    assert code == 0, said
    assert "NOT PINNED, not checked" in said
    assert files(tmp_path / "models") == ["weights/file.bin"]


def test_what_an_unpinned_row_does_say_is_checked(
    hub: Site, manifest: Make, run: Callable, tmp_path: Path
) -> None:
    give(hub, hub_answer(), revision="main")
    code, _ = run(
        manifest(row(revision=None, sha256="0" * 64, bytes=None)), "--allow-unpinned"
    )
    assert code == 1
    assert not list((tmp_path / "models").rglob("file.bin"))


def test_dry_run_asks_nobody(
    hub: Site, manifest: Make, run: Callable, tmp_path: Path
) -> None:
    code, said = run(
        manifest(row(), row(file="b.bin", target="b.bin", sha256=None, bytes=None)),
        "--dry-run",
    )
    assert code == 0
    assert (
        f"weights/file.bin  <-  owner/repo/folder/file.bin  (0.0 MB, pinned at"
        f" {COMMIT[:12]})" in said
    )
    assert "b.bin  <-  owner/repo/b.bin  (size unknown, NOT PINNED)" in said
    assert "2 files, 0.00 GB and 1 of unknown size" in said
    assert hub.asked == []
    assert not (tmp_path / "models").exists()


def test_no_such_profile(manifest: Make, run: Callable) -> None:
    code, said = run(manifest(row()), profile="sd21")
    assert code == 2
    assert "no profile 'sd21', only small, all" in said


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"profiles": ["nobody's"]}, "not all are profiles"),
        ({"repo": "repo"}, "not owner/name"),
        ({"revision": "main"}, "neither null nor 40 hex digits"),
        ({"sha256": "abc"}, "neither null nor 64 hex digits"),
        ({"bytes": "12"}, "neither null nor a size"),
        ({"target": "../x"}, "not a path below the models folder"),
        ({"target": "/x"}, "not a path below the models folder"),
        ({"more": 1}, "exactly the keys"),
    ],
)
def test_a_manifest_that_cannot_be(change: dict, told: str, manifest: Make) -> None:
    path = manifest(row())
    content = json.loads(path.read_text())
    content["files"][0].update(change)
    path.write_text(json.dumps(content))
    with pytest.raises(ManifestError, match=told):
        read_manifest(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"profiles": {}}'])
def test_no_manifest_at_all(text: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ManifestError, match="no manifest"):
        read_manifest(tmp_path / "m.json")


def test_two_rows_for_one_place(manifest: Make) -> None:
    with pytest.raises(
        ManifestError, match="two rows have the target weights/file.bin"
    ):
        read_manifest(manifest(row(), row(file="other.bin")))


def test_our_manifest_puts_published_files_where_the_worker_looks() -> None:
    for each in read_manifest().rows:
        name, folder = each.target.rpartition("/")[2], each.target.rpartition("/")[0]
        if name in catalog.PUBLISHED_FILES:
            published = catalog.PUBLISHED_FILES[name]
            assert (each.repo, each.file, folder) == (
                published.repo,
                name,
                published.folders[0],
            )
        else:
            assert each.target == f"{catalog.BASE_MODELS['sd15'].folder}/{each.file}"
        if (
            each.bytes
            and (counted := catalog.PUBLISHED_FILES.get(name))
            and counted.bytes
        ):
            assert (
                0 <= each.bytes - counted.bytes < 0.005 * counted.bytes
            )  # the file is its numbers and a header


BASE = {
    *("text_encoder/config.json", "text_encoder/model.fp16.safetensors"),
    *("unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors"),
    *("vae/config.json", "vae/diffusion_pytorch_model.fp16.safetensors"),
    *(
        f"tokenizer/{name}"
        for name in (
            "merges.txt",
            "special_tokens_map.json",
            "tokenizer_config.json",
            "vocab.json",
        )
    ),
}
OURS = ("guoyww/animatediff", "wangfuyun/AnimateLCM", "ByteDance/AnimateDiff-Lightning")
PUBLISHED = {
    name for name, file in catalog.PUBLISHED_FILES.items() if file.repo in OURS
}
MOTION_LORAS = {name for name in PUBLISHED if name.startswith("v2_lora_")}
PROFILES = {
    "shapeworld": set(),
    "sd15-v3": BASE | {"v3_sd15_mm.ckpt"},
    "sd15-v2": BASE | {"mm_sd_v15_v2.ckpt"} | MOTION_LORAS,
    "sparsectrl": BASE
    | {"v3_sd15_mm.ckpt", "v3_sd15_adapter.ckpt"}
    | {f"v3_sd15_sparsectrl_{kind}.ckpt" for kind in ("rgb", "scribble")},
    "all": BASE | PUBLISHED,
}


def test_profiles_are_complete() -> None:
    ours = read_manifest()
    assert {
        profile: {each.file for each in ours.of_profile(profile)}
        for profile in ours.profiles
    } == PROFILES
    assert len(MOTION_LORAS) == 8


def test_the_default_of_a_real_model_is_pinned() -> None:
    assert all(each.pinned for each in read_manifest().of_profile("sd15-v3"))


def test_pins_are_the_services_own() -> None:
    def pins(path: Path) -> set[str]:
        return {line for line in path.read_text().splitlines() if "==" in line}

    assert pins(ROOT / "builder/requirements.txt") <= pins(ROOT / "requirements.txt")
