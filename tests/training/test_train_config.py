"""Training configs: the published hyper-parameters, and clear errors."""

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_runs import WORLD, MakeConfig

import animatediff
from animatediff.errors import ConfigurationError
from animatediff.training.config import TrainConfig, load_config, validated
from animatediff.training.stages import STAGES
from lab.shapeworld.source import World

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "training"
SMALL = {"stage": "vae", "output_dir": "o", "steps": 1, "data": {"source": WORLD}}
SMALL_YAML = yaml.safe_dump(SMALL)


@pytest.mark.parametrize("stage", STAGES)
def test_there_is_a_config_of_every_stage(stage: str) -> None:
    assert load_config(CONFIGS / f"{stage}.yaml").stage == stage


def test_published_hyper_parameters() -> None:
    motion, image = (
        load_config(CONFIGS / "motion.yaml"),
        load_config(CONFIGS / "image.yaml"),
    )
    for config, lr, betas, batch_size in (
        (motion, 1e-4, "linear", 4),
        (image, 1e-5, "scaled_linear", 50),
    ):
        optimizer = config.optimizer
        assert (
            optimizer.lr,
            optimizer.betas,
            optimizer.weight_decay,
            optimizer.eps,
        ) == (lr, (0.9, 0.999), 1e-2, 1e-8)
        assert (config.loss.beta_schedule, config.batch_size, config.text_dropout) == (
            betas,
            batch_size,
            0.1,
        )
        assert (config.schedule.name, config.max_grad_norm) == ("constant", 1.0)
    data: Any = motion.data
    assert (data.num_frames, data.stride) == (16, 4)
    assert (data.width, data.height) == (256, 256)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.lr=1", r"^optimiser: no such key; did you mean optimizer\?"),
        (
            "optimizer.weigth_decay=0",
            r"^optimizer.weigth_decay: no such key; did you mean weight_decay\?",
        ),
        (
            "data.shots=[{kamera: zoom_in}]",
            r"^data.shots.0.kamera: no such key; did you mean camera\?",
        ),
        (
            "model.loras=[{path: a, strenght: 1}]",
            r"^model.loras.0.strenght: no such key; did you mean strength\?",
        ),
        (
            "model.unet.sample_sise=8",
            r"^model.unet.sample_sise: no such key; did you mean sample_size\?",
        ),
        (
            "optimizer.lr=fast",
            "^optimizer.lr: got .fast. .a string., allowed: a finite number above 0",
        ),
        ("stage=moton", "^stage: got moton, allowed: one of vae"),
        ("steps=.inf", "^steps"),
        ("steps=null", "^steps"),
        ("optimizer.lr=-1", "^optimizer.lr: got -1"),
        ("data={kind: clips}", "^data.root: this key is needed"),
        ("data={kind: clips, root: a, height: 100}", "^data.height: got 100"),
        ("data.width=128", "^data.width: got 128.* 64"),
        ("data.seed=-1", "^data.seed: got -1"),
        ("data={kind: films}", "^data.kind: got 'films', allowed: clips, pictures"),
        ("data.kind=clips", "^data.kind: got clips"),
        ("data={}", "^data.kind: got None"),
        ("data=7", "^data: got 7"),
        ("data.source=nowhere:Films", "no module nowhere here.*PYTHONPATH"),
        ("data.source=lab.nowhere:Films", "no module lab.nowhere here"),
        ("data.source=lab.shapeworld.source:Shot", "no data source Shot"),
        ("data.source=lab.shapeworld.source", 'import path like "module:Class"'),
        ("data.source=7", "got 7, allowed: an import path"),
        ("steps", "is not key=value"),
        ("steps=[", "is not YAML"),
    ],
)
def test_errors_name_the_key(override: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(SMALL_YAML)
    with pytest.raises(ConfigurationError, match=message):
        load_config(path, [override])


def test_errors_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigurationError, match="a table of keys"):
        load_config(tmp_path / "list.yaml")
    with pytest.raises(ConfigurationError, match=r"^steps: this key is needed"):
        validated({key: value for key, value in SMALL.items() if key != "steps"})


def test_overrides_are_yaml(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(SMALL_YAML)
    overrides = [
        "optimizer.lr=1e-5",
        "validation.prompts=[a red circle, 'b']",
        "data.shots=[{style: sepia}]",
        "seed=7",
    ]
    config = load_config(path, overrides)
    assert (config.optimizer.lr, config.seed) == (1e-5, 7)
    assert config.validation.prompts == ("a red circle", "b")
    assert isinstance(config.data, World)
    assert config.data.shots[0].style == "sepia"
    assert validated(config.model_dump(mode="json")) == config


def test_the_fingerprint_is_of_what_decides(make_config: MakeConfig) -> None:
    def of(**changes: object) -> str:
        return make_config("motion", **changes).fingerprint()

    same = of()
    assert (
        of(
            output_dir="elsewhere",
            keep=9,
            validation={"every": 3},
            data={"workers": 2},
            steps=9,
        )
        == same
    )
    others = {
        of(seed=1),
        of(optimizer={"lr": 2e-3}),
        of(data={"size": 3}),
        of(batch_size=1),
    }
    assert len(others) == 4
    assert same not in others
    cosine = {"name": "cosine"}
    assert of(schedule=cosine, steps=4) != of(schedule=cosine, steps=9)


def test_only_training_imports_training() -> None:
    package = Path(animatediff.__file__).parent
    served = [
        *package.rglob("*.py"),
        *(ROOT / "schemas").glob("*.py"),
        ROOT / "handler.py",
    ]
    apart = (
        "accelerate",
        "peft",
        "tensorboard",
        "matplotlib",
        "training",
        "animatediff.training",
    )
    for path in served:
        if package / "training" in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else []
            )
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith(apart)], path


def test_the_config_is_frozen(make_config: MakeConfig) -> None:
    config: TrainConfig = make_config("vae")
    with pytest.raises(ValueError, match="frozen"):
        config.steps = 9  # pyright: ignore
