"""Examples of the API: jobs as clients send them, and the platform's answers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from animatediff import catalog
from animatediff.errors import AnimateDiffError, AssetError, InvalidRequest
from animatediff.job.clip import Clip
from animatediff.job.fields import echoed

ID = "6f0c3f2e-2a5d-4a53-9d6c-1f7f1f4f7a10-u1"


@dataclass(frozen=True)
class Example:
    """A JSON value, and one line about it."""

    summary: str
    value: Any


Examples = Mapping[str, Example]


def _sha256(start: str) -> str:
    return f"{start:0<64}"


REQUESTS: Examples = {
    "prompt": Example(
        "Only a prompt", {"input": {"prompt": "a lighthouse in the rain"}}
    ),
    "settings": Example(
        "Size, length, sampling and file format",
        {
            "input": {
                "prompt": "a lighthouse in the rain",
                "negative_prompt": "blurry, text",
                "num_frames": 24,
                "width": 512,
                "height": 768,
                "num_inference_steps": 20,
                "scheduler": "dpmpp_2m_karras",
                "guidance_scale": 6.5,
                "seed": 1234,
                "fps": 12,
                "format": "webm",
            }
        },
    ),
    "long": Example(
        "A long clip, in overlapping windows",
        {
            "input": {
                "prompt": "a lighthouse in the rain",
                "num_frames": 64,
                "context": {"overlap": 6, "fuse": "overlap_linear"},
            }
        },
    ),
    "weights": Example(
        "A DreamBooth model, the domain adapter and a style LoRA",
        {
            "input": {
                "prompt": "a lighthouse in the rain",
                "motion_module": "v3_sd15_mm",
                "dreambooth": "dreambooth/toonyou_beta3.safetensors",
                "loras": [
                    {"path": "v3_sd15_adapter.ckpt", "strength": 0.8},
                    {"path": "loras/film.safetensors", "strength": 0.6},
                ],
            }
        },
    ),
    "picture": Example(
        "A clip that begins with a picture",
        {
            "input": {
                "prompt": "a sailing boat at dusk",
                "motion_module": "v3_sd15_mm",
                "controls": [
                    {
                        "path": "v3_sd15_sparsectrl_rgb.ckpt",
                        "images": ["https://example.org/boat.jpg"],
                    }
                ],
            }
        },
    ),
    "preview": Example(
        "With moving pictures in its progress",
        {
            "input": {
                "prompt": "a lighthouse in the rain",
                "preview": {"every": 5, "max_bytes": 30_000},
            }
        },
    ),
    "webhook": Example(
        "With a webhook, and time limits of the platform",
        {
            "input": {"prompt": "a lighthouse in the rain"},
            "webhook": "https://example.org/clips/done?token=a-secret-of-yours",
            "policy": {"executionTimeout": 900_000, "ttl": 3_600_000},
        },
    ),
}

_OUTPUT = {
    "url": "https://clips.example.org/animatediff/6f0c3f2e-814b9c3e0431.mp4",
    "format": "mp4",
    "mime": "video/mp4",
    "bytes": 29409,
    "sha256": _sha256("814b9c3e0431"),
    "num_frames": 16,
    "width": 64,
    "height": 64,
    "num_inference_steps": 25,
    "guidance_scale": 4.0,
    "seed": 7,
    "scheduler": "ddim",
    "fps": 8,
    **{
        name: row.default for name, row in echoed(Clip).items() if not row.is_required()
    },
    "model": {"name": "shapeworld", "sha256": _sha256("7e059b28611f")},
    "motion_module": {"name": "shapeworld_v3", "sha256": _sha256("6888cec5972e")},
    "dreambooth": None,
    "vae": None,
    "loras": [],
    "embeddings": [],
    "controls": [],
    "timings": {
        "prepare": 0.001,
        "queue": 0.001,
        "gpu": 3.667,
        "load": 0.0,
        "encode": 0.005,
        "denoise": 3.5,
        "decode": 0.161,
        "hash": 0.0,
        "write": 0.053,
        "store": 0.001,
        "total": 3.722,
    },
    "worker": {"jobs": 3, "uptime_seconds": 78.5, "gpu_busy": 0.1805},
    "warnings": [catalog.BASE_MODELS["shapeworld"].note],
}


def _failed(error: AnimateDiffError) -> Any:
    text = json.dumps(error.to_dict())
    return {"id": ID, "status": "FAILED", "error": text, "executionTime": 12}


RECEIPTS: Examples = {
    "queued": Example("The job is in the queue", {"id": ID, "status": "IN_QUEUE"}),
}
_RUNNING = Example(
    "A worker makes the clip",
    {
        "id": ID,
        "status": "IN_PROGRESS",
        "delayTime": 824,
        "output": {"phase": "denoise", "step": 12, "total": 25, "seconds_left": 8.2},
    },
)
_SHOWN = Example(
    "A worker makes the clip, and shows it (the preview is cut here)",
    {
        "id": ID,
        "status": "IN_PROGRESS",
        "output": {
            "phase": "denoise",
            "step": 15,
            "total": 25,
            "preview": "data:image/webp;base64,UklGRg==",
            "seconds_left": 6.7,
        },
    },
)
_COMPLETED = Example(
    "The clip is ready",
    {
        "id": ID,
        "status": "COMPLETED",
        "delayTime": 824,
        "executionTime": 3735,
        "workerId": "w1a2b3c4d5",
        "output": _OUTPUT,
    },
)
_INVALID = Example(
    "A field of the job is wrong",
    _failed(
        InvalidRequest("width", 513, "an integer from 64 to 2048, a multiple of 8")
    ),
)
_FETCH_FAILED = Example(
    "A file could not be fetched; the same job may succeed later",
    _failed(
        AssetError(
            "loras.0.path: example.org answered 503",
            retryable=True,
            asset="https://example.org/film.safetensors",
        )
    ),
)
_CANCELLED = Example(
    "Someone cancelled the job", {"id": ID, "status": "CANCELLED", "delayTime": 824}
)
_TIMED_OUT = Example(
    "The platform ended the job",
    {"id": ID, "status": "TIMED_OUT", "executionTime": 600_000},
)
STATUSES: Examples = {
    **RECEIPTS,
    "running": _RUNNING,
    "shown": _SHOWN,
    "completed": _COMPLETED,
    "invalid": _INVALID,
    "fetch_failed": _FETCH_FAILED,
    "cancelled": _CANCELLED,
    "timed_out": _TIMED_OUT,
}
ENDS: Examples = {
    "completed": _COMPLETED,
    "invalid": _INVALID,
    "cancelled": _CANCELLED,
}
CANCELS: Examples = {"cancelled": _CANCELLED}
STREAMS: Examples = {
    "empty": Example("No parts", {"status": "IN_PROGRESS", "stream": []}),
}
