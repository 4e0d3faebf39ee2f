from animatediff import catalog
from animatediff.families import DEFAULT
from animatediff.sampling.schedulers import make_scheduler
from animatediff.video import OUTPUT_FORMATS


def test_every_name_in_a_row_is_another_tables_key() -> None:
    for row in catalog.MOTION_MODULES.values():
        assert row.version in catalog.MOTION_MODULE_VERSIONS
    for model in catalog.BASE_MODELS.values():
        assert set(model.motion_modules) <= set(catalog.MOTION_MODULES)
        assert model.defaults.scheduler in catalog.SCHEDULERS
        assert model.defaults.format in OUTPUT_FORMATS
        for motion_module in model.motion_modules:
            assert model.defaults.num_frames <= catalog.max_frames(motion_module)


def test_every_scheduler_can_be_made_up_to_its_last_step() -> None:
    for name, row in catalog.SCHEDULERS.items():
        for steps in (1, row.max_steps):
            assert (
                1
                <= len(make_scheduler(name, steps, DEFAULT.noise_schedule).timesteps)
                <= steps + 1
            )
