"""The original's configurations and command lines: translated key by key, nothing silent."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from agrifm.checkpoint import Checkpoint
from agrifm.checks.band_order import BandOrder
from agrifm.compat import commands
from agrifm.compat.configs import Translation, translate
from agrifm.compat.python_config import merge, parse_value, read
from agrifm.config import parse
from agrifm.errors import InputError
from agrifm.nn.swin import SIZES

SHIPPED = Path(__file__).parent.parent / "configs" / "cropland_mapping.py"


def schema(sensors: dict[str, int] | None = None, **top: Any) -> dict[str, Any]:
    """A configuration with the original's structure and the sizes of its cropland model."""
    sensors = sensors or {"S2": 10}
    patch = [4, 2, 2]
    encoder = {
        "type": "PretrainingSwinTransformer3DEncoder",
        "backbone_cfg": {
            "type": "SwinTransformer3D", "pretrained": None, "pretrained2d": False, "patch_size": patch,
            "embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": [8, 7, 7],
            "out_indices": [0, 1, 2, 3], "mlp_ratio": 4.0, "qkv_bias": True, "qk_scale": None, "drop_rate": 0.0,
            "attn_drop_rate": 0.0, "drop_path_rate": 0.2, "patch_norm": False, "frozen_stages": -1,
            "use_checkpoint": False, "downsample_steps": [[2, 2, 2]] * 4, "feature_fusion": "cat",
            "mean_frame_down": True,
        },
        "init_cfg": {"type": "pretrained", "checkpoint": "weights/AgriFM.pth"},
    }  # fmt: skip
    encoders = {
        name: {
            **encoder,
            "patch_emd_cfg": {"type": "SwinPatchEmbed3D", "patch_size": patch, "in_chans": count, "embed_dim": 128},
        }
        for name, count in sensors.items()
    }
    figures = {name: [float(i + 1) for i in range(count)] for name, count in sensors.items()}
    sizes = {name: [256, 256] for name in (*sensors, "label")}
    steps = [{"type": "MapNormalize", "mean": figures, "std": figures}, {"type": "MapResize", "size": sizes}]

    def loader(split: str, **changes: Any) -> dict[str, Any]:
        dataset = {
            "type": "MappingDataset", "data_toot_path": "somewhere/h5_samples", "label_key": "label",
            "data_list_file": f"lists/{split}.txt", "data_pipelines": steps, "data_keys": list(sensors),
        }  # fmt: skip
        shared = {"persistent_workers": False, "collate_fn": {"type": "default_collate"}, "dataset": dataset}
        return {"batch_size": 4, "num_workers": 6, "sampler": {"type": "DefaultSampler"}, **shared, **changes}

    scorer = {"type": "CropIoUMetric", "iou_metrics": ["mFscore", "mIoU"], "num_classes": 2, "ignore_index": -1}
    adamw = {"type": "AdamW", "lr": 6e-5, "weight_decay": 0.0005}
    return {
        "model": {
            "type": "MultiUnifiedModel",
            "encoders": {"type": "MultiModalEncoder", "encoders_cfg": encoders},
            "neck": {
                "type": "MultiFusionNeck", "embed_dim": 1024, "in_feature_key": list(sensors),
                "feature_size": [16, 16], "out_size": [256, 256],
                "in_fusion_key_list": [dict.fromkeys(sensors, 1024)] * 3,
            },
            "head": {
                "type": "CropFCNHead", "num_classes": 2, "embed_dim": 1024, "loss_model": {"type": "CropCEloss"},
            },
        },
        "train_dataloader": loader("train"),
        "val_dataloader": loader("val"),
        "test_dataloader": loader("test", batch_size=8),
        "optimizer": adamw,
        "optim_wrapper": {"type": "OptimWrapper", "optimizer": adamw, "clip_grad": None},
        "param_scheduler": [
            {"type": "LinearLR", "start_factor": 0.01, "by_epoch": False, "begin": 0, "end": 1000},
            {"type": "CosineAnnealingLR", "eta_min": 1e-6, "by_epoch": False, "begin": 1000},
        ],
        "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 50, "val_interval": 1},
        "val_cfg": {"type": "ValLoop"},
        "val_evaluator": scorer,
        "test_evaluator": scorer,
        "default_hooks": {
            "timer": {"type": "IterTimerHook"},
            "checkpoint": {"type": "CheckpointHook", "interval": 5, "save_best": "mFscore", "rule": "greater"},
            "sampler_seed": None,
        },
        "resume": True,
        "img_size": 256,
        **top,
    }  # fmt: skip


def change(*assignments: str, sensors: dict[str, int] | None = None) -> Translation:
    """Translate the schema with some keys changed, written as on the command line."""
    values: Any = schema(sensors)
    for assignment in assignments:
        path, _, text = assignment.partition("=")
        child: Any = parse_value(text)
        for key in reversed(path.split(".")):
            child = {key: child}
        values = merge(values, child)
    return translate(values, "old.py")


def notes_text(translation: Translation, kind: str) -> str:
    return "\n".join(f"{note.key}: {note.text}" for note in translation.notes if note.kind == kind)


BACKBONE = "model.encoders.encoders_cfg.S2.backbone_cfg"
EMBEDDING = "model.encoders.encoders_cfg.S2.patch_emd_cfg"
STEPS = "train_dataloader.dataset.data_pipelines"


class TestTranslation:
    def test_the_original_structure_gives_the_original_numbers(self):
        found = translate(schema(), "old.py")
        experiment, training = found.experiment, found.experiment.training
        quirk = replace(SIZES["base"], clipped_bias="first_rows")
        assert (experiment.model.swin, experiment.model.patch) == (quirk, (4, 2, 2))
        assert (experiment.model.decoder, experiment.model.day_of_year) == ("original", False)
        assert (experiment.data.frames, experiment.data.resize["label"]) == (32, (256, 256))
        assert experiment.data.folder == Path("somewhere/h5_samples")
        assert experiment.data.list_file("val") == Path("lists/val.txt")
        assert experiment.data.sensors[0].known_statistics().mean == tuple(map(float, range(1, 11)))
        assert experiment.task.names == ("class_0", "class_1")
        assert (training.epochs, training.batch_size, training.learning_rate) == (50, 4, 6e-5)
        assert (training.min_learning_rate, training.weight_decay, training.gradient_clip_val) == (1e-6, 0.0005, 0.0)
        assert (training.precision, training.workers, training.warmup) == ("32-true", 6, 0.05)
        assert not experiment.augment.flips
        assert not experiment.augment.rot90
        assert experiment.start_from == Path("weights/AgriFM.pth")
        assert "patches (4, 4, 4), this model (4, 2, 2)" in notes_text(found, "changed")
        assert "5 % of the steps" in notes_text(found, "derived")  # the list is not here, so its length is unknown
        assert found.resume is True
        assert found.variables == ("img_size",)

    def test_the_translated_yaml_gives_the_same_experiment(self):
        experiment = translate(schema({"S2": 10, "HLS": 6, "Drone": 4}), "old.py").experiment
        assert parse(yaml.safe_load(experiment.to_yaml())) == experiment

    def test_the_shipped_configuration_translates(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        monkeypatch.chdir(tmp_path)
        found = translate(read(SHIPPED), SHIPPED)
        assert found.experiment.data.root == Path("data/example")
        assert found.experiment.data.list_file("test") == Path("data/example/data_lists/test.txt")
        assert found.experiment.data.frames == 16
        assert found.experiment.augment.flips
        assert found.out == Path("work_dirs/cropland_mapping")

    def test_warm_up_iterations_become_a_share_of_the_listed_chips(self, tmp_path: Path):
        (tmp_path / "train.txt").write_text("".join(f"chip{i}\n" for i in range(38)))  # 10 batches, 500 in all
        listed = f"train_dataloader.dataset.data_list_file={tmp_path / 'train.txt'}"
        shorter = ("param_scheduler.0.end=25", "param_scheduler.1.begin=25")
        assert change(listed, *shorter).experiment.training.warmup == 0.05
        assert "training has 500 steps only" in notes_text(change(listed), "changed")
        with pytest.raises(InputError, match=r"param_scheduler\[1\].begin(.|\n)*25"):
            change(listed, shorter[0], "param_scheduler.1.begin=100")
        with pytest.raises(InputError, match=r"T_max(.|\n)*475"):
            change(listed, *shorter, "param_scheduler.1.T_max=100")

    def test_without_a_schedule_the_rate_stays(self):
        training = change("param_scheduler=None").experiment.training
        assert (training.warmup, training.min_learning_rate) == (0.0, training.learning_rate)

    def test_warm_up_in_epochs(self):
        epochs = ("param_scheduler.0.by_epoch=True", "param_scheduler.0.end=5", "param_scheduler.1.by_epoch=True")
        found = change(*epochs, "param_scheduler.1.begin=5", "param_scheduler.1.eta_min_ratio=0.1")
        assert found.experiment.training.warmup == 0.1
        assert found.experiment.training.min_learning_rate == pytest.approx(6e-6)

    def test_random_steps_of_evaluation_are_left_out(self):
        steps = schema()["train_dataloader"]["dataset"]["data_pipelines"]
        flips = [{"type": "MapVerticalFlip"}, {"type": "MapHorizontalFlip", "p": 0.5}, {"type": "MapRotate"}]
        values = schema()
        for name in ("train", "val"):
            values[f"{name}_dataloader"]["dataset"]["data_pipelines"] = [*flips, {"type": "MapToTensor"}, *steps]
        found = translate(values, "old.py")
        assert found.experiment.augment.flips
        assert found.experiment.augment.rot90
        assert "val_dataloader.dataset.data_pipelines: MapVerticalFlip" in notes_text(found, "changed")
        assert "MapRotate p=0.5" in notes_text(found, "changed")

    def test_sensors_keep_the_names_of_the_files(self):
        found = translate(schema({"Modis": 7, "HLS": 6, "Drone": 4}), "old.py")
        modis, landsat, drone = found.experiment.data.sensors
        assert (modis.band_ids[0], landsat.name, landsat.band_ids[3]) == ("sur_refl_b01", "HLS", "B05")
        assert drone.band_ids == ("band1", "band2", "band3", "band4")
        assert not found.experiment.data.check_bands
        assert "taken for those of Landsat" in notes_text(found, "derived")

    def test_the_neck_decides_the_number_of_frames(self):
        levels = [f"model.neck.in_fusion_key_list.{i}.S2={c}" for i, c in enumerate((512, 512, 512))]
        found = change(*levels, "model.neck.embed_dim=1024", "model.head.embed_dim=1024")
        assert found.experiment.data.frames == 16

    def test_options_of_training(self):
        found = change(
            "optim_wrapper.type=AmpOptimWrapper", "optim_wrapper.dtype=bfloat16", "optim_wrapper.clip_grad.max_norm=2",
            "optim_wrapper.accumulative_counts=3", "randomness.seed=7", f"{BACKBONE}.use_checkpoint=True",
            f"{BACKBONE}.frozen_stages=4", "experiment_name=mine", "test_dataloader=None",
            "default_hooks.early.type=EarlyStoppingHook", "default_hooks.early.monitor=mFscore",
            "default_hooks.ema.type=EMAHook", "default_hooks.ema.momentum=0.001", "work_dir=elsewhere",
        )  # fmt: skip
        experiment, training = found.experiment, found.experiment.training
        assert (training.precision, training.gradient_clip_val, training.accumulate_grad_batches) == (
            "bf16-mixed",
            2.0,
            3,
        )
        assert (training.patience, training.ema_decay) == (5, 0.999)
        assert (experiment.seed, experiment.name, found.out) == (7, "mine", Path("elsewhere"))
        assert experiment.model.gradient_checkpointing
        assert experiment.model.freeze_encoder
        assert "no test split" in notes_text(found, "derived")


REFUSED = [
    ("train_dataloder={}", "train_dataloder", "did you mean 'train_dataloader'"),
    ("optim_wraper=1", "optim_wraper", "did you mean 'optim_wrapper'"),
    ("model.necks=1", "model.necks", "did you mean 'neck'"),
    (f"{BACKBONE}.drop_path=0.1", "drop_path", "did you mean 'drop_path_rate'"),
    (f"{BACKBONE}.qk_scale=2", "qk_scale", "write None"),
    (f"{BACKBONE}.feature_fusion=mean", "feature_fusion", "agrifm.compat.original"),
    (f"{BACKBONE}.patch_size=(4,4,4)", "patch_size", "as in patch_emd_cfg"),
    (f"{BACKBONE}.num_heads=(3,6,12,24)", "num_heads", "do not split into 3 heads"),
    (f"{BACKBONE}.frozen_stages=2", "frozen_stages", "encoder_lr_scale"),
    (f"{BACKBONE}.drop_rate=0.1", "drop_rate", "write 0"),
    (f"{BACKBONE}.downsample_steps=[1,2]", "downsample_steps", "correct it"),
    (f"{BACKBONE}.out_indices=(1,2)", "out_indices", "every level"),
    (f"{BACKBONE}.type=ResNet", f"{BACKBONE}.type", "write 'SwinTransformer3D'"),
    (f"{EMBEDDING}.in_chans=ten", "in_chans", "correct the value"),
    (f"{EMBEDDING}.patch_size=(4,2)", "patch_size", "correct the value"),
    ("model.encoders.encoders_cfg.S2.init_cfg.strickt=True", "init_cfg.strickt", "did you mean 'strict'"),
    ("load_from=other.pth", "load_from", "keep one of the two"),
    ("model.neck.embed_dim=512", "model.neck.embed_dim", "write 1024"),
    ("model.neck.feature_size=(8,8)", "feature_size", "out_size"),
    ("model.neck.in_feature_key=(S2,Modis)", "in_feature_key", "name every encoder"),
    ("model.neck.in_fusion_key_list.1.S2=100", "in_fusion_key_list[1]", "{'S2': 1024}"),
    ("model.neck.in_fusion_key_list=5", "in_fusion_key_list", "3 levels"),
    ("model.head.num_classes=1", "num_classes", "at least 2"),
    ("model.head.loss_model.ignore_index=1", "ignore_index", "also a class"),
    ("val_dataloader.batchsize=3", "val_dataloader.batchsize", "did you mean 'batch_size'"),
    ("train_dataloader.sampler.shuffle=False", "sampler.shuffle", "always shuffles"),
    ("train_dataloader.sampler.type=InfiniteSampler", "sampler.type", "DefaultSampler"),
    ("train_dataloader.dataset.data_root=x", "dataset.data_root", "data_toot_path"),
    ("train_dataloader.dataset.data_keys=Modis", "data_keys", "also S2"),
    ("val_dataloader.dataset.data_toot_path=x", "val_dataloader.dataset.data_toot_path", "one folder"),
    ("val_dataloader.dataset.data_pipelines.0.mean.S2.0=9", "val_dataloader.dataset.data_pipelines", "same MapNorm"),
    ("val_dataloader=None", "val_dataloader", "dictionary"),
    (f"{STEPS}=None", STEPS, "add dict(type='MapNormalize'"),
    (f"{STEPS}=3", STEPS, "write a list"),
    (f"{STEPS}.0.type=MapNormalise", f"{STEPS}[0].type", "did you mean 'MapNormalize'"),
    (f"{STEPS}.0.std.S2.0=0", f"{STEPS}[0].std", "above 0"),
    (f"{STEPS}.0.mean.S2=[1,2]", f"{STEPS}[0].mean", "10 numbers"),
    (f"{STEPS}.1.size.label=(128,128)", f"{STEPS}[1].size", "out_size"),
    (f"{STEPS}.1.size=256", f"{STEPS}[1].size", "rows, columns"),
    ("optimizer.lr=1", "optimizer", "optim_wrapper.optimizer"),
    ("optim_wrapper.optimizer.type=SGD", "optimizer.type", "AdamW"),
    ("optim_wrapper.clip_grad.clip_value=1", "clip_grad.max_norm", "required"),
    ("param_scheduler.1.type=PolyLR", "param_scheduler[1].type", "CosineAnnealingLR"),
    ("param_scheduler.1.type=LinearLR", "param_scheduler[1].type", "each once"),
    ("train_cfg.max_epoch=3", "train_cfg.max_epoch", "did you mean 'max_epochs'"),
    ("train_cfg.type=IterBasedTrainLoop", "train_cfg.type", "EpochBasedTrainLoop"),
    ("val_evaluator.num_classes=3", "val_evaluator[0].num_classes", "write 2"),
    ("val_evaluator.ignore_index=255", "ignore_index", "write -1"),
    ("val_evaluator.iou_metrics=[mFscor]", "iou_metrics", "did you mean 'mFscore'"),
    ("default_hooks.checkpoint.save_best=mIoU", "checkpoint.save_best", "mFscore"),
    ("default_hooks.timer.type=Zzz", "timer.type", "valid names"),
    ("default_hooks.ema={'type':'EMAHook','momentum':2}", "ema.momentum", "0.001"),
    ("randomness.sed=1", "randomness.sed", "did you mean 'seed'"),
]

# Keys of mmengine, mmseg and the original's code that its published configuration does not use.
NOT_TRANSLATED = [
    ("model.load_from=other.pth", "model.load_from"),
    ("model.encoders.encoders_cfg.S2.data_preprocessor=None", "S2.data_preprocessor"),
    ("model.encoders.encoders_cfg.S2.init_cfg.map_location=cpu", "init_cfg.map_location"),
    ("model.encoders.encoders_cfg.S2.init_cfg.prefix=x", "init_cfg.prefix"),
    ("model.encoders.encoders_cfg.S2.init_cfg.revise_keys=[]", "init_cfg.revise_keys"),
    (f"{EMBEDDING}.norm_layer=None", "patch_emd_cfg.norm_layer"),
    (f"{BACKBONE}.norm_layer=None", "backbone_cfg.norm_layer"),
    ("train_dataloader.drop_last=True", "train_dataloader.drop_last"),
    ("train_dataloader.pin_memory=True", "train_dataloader.pin_memory"),
    ("train_dataloader.prefetch_factor=2", "train_dataloader.prefetch_factor"),
    ("train_dataloader.batch_sampler=None", "train_dataloader.batch_sampler"),
    ("train_dataloader.sampler.seed=1", "sampler.seed"),
    (f"{STEPS}.0.norm_keys=[Modis]", f"{STEPS}[0].norm_keys"),
    (f"{STEPS}.0.normkeys=1", f"{STEPS}[0].normkeys"),
    (f"{STEPS}.0.mean.Modis=[1]", f"{STEPS}[0].mean.Modis"),
    (f"{STEPS}.1.interpolation.S2=nearest", f"{STEPS}[1].interpolation"),
    ("optim_wrapper.optimizer={'type':'AdamW','betas':[0.9,0.99]}", "optimizer.betas"),
    ("optim_wrapper.paramwise_cfg.x=1", "optim_wrapper.paramwise_cfg"),
    ("optim_wrapper.constructor=Mine", "optim_wrapper.constructor"),
    ("optim_wrapper.clip_grad={'max_norm':1,'norm_type':1}", "clip_grad.norm_type"),
    ("param_scheduler.0.end_factor=0.5", "param_scheduler[0].end_factor"),
    ("param_scheduler.0.convert_to_iter_based=True", "param_scheduler[0].convert_to_iter_based"),
    ("train_cfg.val_begin=3", "train_cfg.val_begin"),
    ("val_evaluator.beta=2", "val_evaluator[0].beta"),
    ("val_evaluator.nan_to_num=0", "val_evaluator[0].nan_to_num"),
    ("default_hooks.checkpoint.save_last=False", "checkpoint.save_last"),
    ("default_hooks.stop={'type':'EarlyStoppingHook','monitor':'mFscore','check_finite':False}", "stop.check_finite"),
    ("default_hooks.ema={'type':'EMAHook','begin_epoch':3}", "ema.begin_epoch"),
    ("randomness.deterministic=True", "randomness.deterministic"),
    ("auto_scale_lr.enable=True", "auto_scale_lr"),
    ("runner_type=Mine", "runner_type"),
    ("compile=True", "compile"),
]


class TestRefusals:
    @pytest.mark.parametrize(("assignment", "path", "repair"), REFUSED, ids=[row[0] for row in REFUSED])
    def test_the_error_names_the_key_and_the_repair(self, assignment: str, path: str, repair: str):
        with pytest.raises(InputError) as caught:
            change(assignment)
        assert caught.value.where.startswith("old.py: ")
        assert path in caught.value.where
        assert repair in str(caught.value)

    @pytest.mark.parametrize(("assignment", "path"), NOT_TRANSLATED, ids=[row[0] for row in NOT_TRANSLATED])
    def test_keys_beyond_the_published_configuration_are_refused_by_name(self, assignment: str, path: str):
        with pytest.raises(InputError) as caught:
            change(assignment)
        assert caught.value.where.startswith("old.py: ")
        assert caught.value.where.endswith(path)
        assert caught.value.found == "an unknown key"

    def test_encoders_must_agree(self):
        with pytest.raises(InputError, match=r"encoders_cfg\.Modis"):
            change("model.encoders.encoders_cfg.Modis.backbone_cfg.mlp_ratio=2", sensors={"S2": 10, "Modis": 7})

    def test_encoders_must_start_from_the_same_weights(self):
        with pytest.raises(InputError, match="same checkpoint"):
            change("model.encoders.encoders_cfg.Modis.init_cfg=None", sensors={"S2": 10, "Modis": 7})

    def test_the_weights_of_the_whole_model_are_the_start(self):
        found = change("model.encoders.encoders_cfg.S2.init_cfg=None", "load_from=own.pth")
        assert found.experiment.start_from == Path("own.pth")

    def test_a_random_crop_and_a_single_flip_have_no_place(self):
        for kind, repair in (("MapRandomCrop", "augment.crop"), ("MapVerticalFlip", "both or neither")):
            values = schema()
            pipelines = values["train_dataloader"]["dataset"]["data_pipelines"]
            values["train_dataloader"]["dataset"]["data_pipelines"] = [{"type": kind}, *pipelines]
            with pytest.raises(InputError, match=repair):
                translate(values, "old.py")

    def test_a_missing_section_is_named_with_what_stands_instead(self):
        values = schema()
        values["optim_wrap"] = values.pop("optim_wrapper")
        with pytest.raises(InputError, match="rename 'optim_wrap' to 'optim_wrapper'"):
            translate(values, "old.py")

    def test_what_is_no_misspelling_is_a_helper(self):
        found = translate(schema(model_name="x", optimizer_cfg={}, my_model=1, sensors_seen=[1]), "old.py")
        assert set(found.variables) == {"img_size", "model_name", "optimizer_cfg", "my_model", "sensors_seen"}

    def test_notes_on_scores_that_would_differ(self):
        values = schema()
        values["val_evaluator"] = {"type": "CropIoUMetric", "num_classes": 2, "iou_metrics": "mDice"}
        found = translate(values, "old.py")
        assert "the original took 255" in notes_text(found, "changed")


class TestReading:
    def test_bases_join_and_options_override(self, tmp_path: Path):
        (tmp_path / "base.py").write_text("import os\na = dict(b=1, c=dict(d=2))\nlist_ = [dict(x=1), dict(x=2)]\n")
        child = "_base_ = 'base.py'\na = dict(b=3)\nlist_ = [dict(x=1), dict(x=2)]\n\n\ndef helper():\n    pass\n"
        (tmp_path / "child.py").write_text(child)
        found = read(tmp_path / "child.py", ["a.c.d=[1,(two,3)]", "list_.1.x=1e-3", "new=True"])
        assert found == {"a": {"b": 3, "c": {"d": [1, ["two", 3]]}}, "list_": [{"x": 1}, {"x": 0.001}], "new": True}

    def test_delete_replaces_the_base(self):
        assert merge({"a": {"b": 1}}, {"a": {"_delete_": True, "c": 2}}) == {"a": {"c": 2}}

    @pytest.mark.parametrize(
        ("text", "value"),
        [("1,2", [1, 2]), ("a,b", ["a", "b"]), ("[a]", ["a"]), ("none", None), ("'x y'", "x y"), ("S2", "S2")],
    )
    def test_values(self, text: str, value: Any):
        assert parse_value(text) == value

    @pytest.mark.parametrize(
        ("text", "where", "found"),
        [
            ("a = 1\nb = (\n", "broken.py:2", "SyntaxError"),
            ("a = 1\n\nb = a / 0\n", "broken.py:3", "ZeroDivisionError"),
            ("import mmengine_is_not_here\n", "broken.py:1", "ModuleNotFoundError"),
            ("_base_ = 'broken.py'\n", "broken.py", "its own base"),
            ("_base_ = ['one.py', 'two.py']\n", "broken.py: _base_", "'a' in two base files"),
            ("_base_ = 'missing.py'\n", "missing.py", "no such file"),
        ],
    )
    def test_a_file_that_fails_is_named_with_its_line(self, tmp_path: Path, text: str, where: str, found: str):
        (tmp_path / "broken.py").write_text(text)
        for name in ("one", "two"):
            (tmp_path / f"{name}.py").write_text("a = 1\n")
        with pytest.raises(InputError) as caught:
            read(tmp_path / "broken.py")
        assert caught.value.where.endswith(where)
        assert found in caught.value.found

    @pytest.mark.parametrize("option", ["a", "=3", "a.7=1"])
    def test_options_that_do_not_fit(self, tmp_path: Path, option: str):
        (tmp_path / "c.py").write_text("a = [1, 2]\n")
        with pytest.raises(InputError):
            read(tmp_path / "c.py", [option])


class Recorded:
    """Stands in for training, evaluation and prediction, and keeps what they were given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: dict[str, tuple[tuple, dict]] = {}
        answers = {
            "agrifm.training.fit.fit": Path("best.safetensors"),
            "agrifm.evaluation.scoring.evaluate": SimpleNamespace(summary={"mFscore": 0.5}),
            "agrifm.maps.predict_chips.predict": [Path("a_pred.png")],
        }
        for name, answer in answers.items():
            monkeypatch.setattr(name, self._stand_in(name.rsplit(".", 1)[1], answer))

    def _stand_in(self, name: str, answer: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] = (args, kwargs)
            return answer

        return call


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working folder with the shipped configuration and its lists."""
    for name in ("LOCAL_RANK", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    lists = tmp_path / "data/example/data_lists"
    lists.mkdir(parents=True)
    for split in ("train", "val", "test"):
        (lists / f"{split}.txt").write_text(f"{split}1\n")
    Path("c.py").write_text(SHIPPED.read_text())
    return tmp_path


@pytest.mark.usefixtures("here")
class TestCommands:
    def test_train_prints_the_new_command_and_trains(self, monkeypatch: pytest.MonkeyPatch, capsys: Any):
        recorded = Recorded(monkeypatch)
        options = ["--work_dir", "out", "--no-resume", "--cfg-options", "train_cfg.max_epochs=2", "randomness.seed=4"]
        assert commands.train(["c.py", *options]) == 0
        (experiment, out), kwargs = recorded.calls["fit"]
        assert (experiment.training.epochs, experiment.seed, out) == (2, 4, Path("out"))
        assert kwargs == {"resume": False}
        assert experiment.training.precision == "auto"
        assert parse(yaml.safe_load(Path("out/c.yaml").read_text())) == experiment
        printed = capsys.readouterr().out
        assert "agrifm train out/c.yaml --out out --no-resume" in printed
        assert "c.py is a program, and it is run with your rights" in printed
        assert "no GPU here" in printed
        assert "task.classes" in re.sub(r"[\s│]+", " ", printed)

    def test_the_written_yaml_works_with_the_same_command(self, monkeypatch: pytest.MonkeyPatch):
        recorded = Recorded(monkeypatch)
        commands.train(["c.py", "--no-amp"])
        first = recorded.calls["fit"][0]
        assert commands.train([str(first[1] / "c.yaml"), "--work-dir", str(first[1]), "--resume"]) == 0
        assert recorded.calls["fit"][0] == first
        assert first[0].training.precision == "32-true"
        assert recorded.calls["fit"][1]["resume"] is True

    def test_amp_on_a_gpu(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        recorded = Recorded(monkeypatch)
        commands.train(["c.py", "--cfg-options", "optim_wrapper.type=AmpOptimWrapper", "optim_wrapper.dtype=float16"])
        assert recorded.calls["fit"][0][0].training.precision == "16-mixed"

    def test_a_launcher_spreads_the_batch(self, monkeypatch: pytest.MonkeyPatch, capsys: Any):
        recorded = Recorded(monkeypatch)
        assert commands.train(["c.py", "--launcher", "pytorch"]) == 2
        assert "WORLD_SIZE" in capsys.readouterr().err
        for key, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
            monkeypatch.setenv(key, value)
        assert commands.train(["c.py", "--launcher", "pytorch"]) == 0
        training = recorded.calls["fit"][0][0].training
        assert (training.devices, training.batch_size) == (2, 8)
        assert capsys.readouterr().out == ""

    def test_the_check_of_bands_is_left_out_with_a_key_of_theirs(self, monkeypatch: pytest.MonkeyPatch, capsys: Any):
        recorded = Recorded(monkeypatch)
        repair = "reorder the bands, or set 'check_bands: false' in the data section if they are right."

        def refuse(*_: Any, **__: Any):
            raise BandOrder("a: S2", found="x", expected="y", repair=repair)

        monkeypatch.setattr("agrifm.training.fit.fit", refuse)
        assert commands.train(["c.py"]) == 2
        errors = capsys.readouterr().err
        option = re.search(r"--cfg-options ([\w.=]+)", errors)
        assert "check_bands: false" not in errors
        assert option is not None
        recorded = Recorded(monkeypatch)
        assert commands.train(["c.py", "--cfg-options", option[1]]) == 0
        assert recorded.calls["fit"][0][0].data.check_bands is False

    def test_errors_are_told_without_a_traceback(self, capsys: Any):
        assert commands.train(["missing.py"]) == 2
        assert commands.train(["c.py", "--cfg-options", "img_size=32"]) == 2
        errors = capsys.readouterr().err
        assert "missing.py" in errors
        assert "helper variable" in errors

    def test_a_checkpoint_of_ours_keeps_its_model_and_reads_the_given_data(
        self, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ):
        recorded = Recorded(monkeypatch)
        own = change("model.encoders.encoders_cfg.S2.init_cfg=None").experiment
        monkeypatch.setattr("agrifm.compat.weights.open_checkpoint", lambda path, experiment: Checkpoint(own, {}))
        saved: list[Path] = []
        monkeypatch.setattr(Checkpoint, "save", lambda self, path: saved.append(path))
        assert commands.test(["c.py", "old.safetensors", "--work-dir", "out"]) == 0
        checkpoint, source, out = recorded.calls["evaluate"][0]
        assert checkpoint.experiment.model == own.model
        assert source.folder == Path("data/example/h5_samples")
        assert (source.names, source.label_key, source.sensors) == (("test1",), "label", own.data.sensors)
        assert out == Path("out/test")
        assert saved == [Path("out/old_converted.safetensors")]
        printed = capsys.readouterr().out
        assert "agrifm evaluate out/old_converted.safetensors --split test --out out/test" in printed
        assert "0.5000" in printed

    def test_inference_writes_what_the_original_wrote(self, monkeypatch: pytest.MonkeyPatch, capsys: Any):
        recorded = Recorded(monkeypatch)
        own = translate(read(Path("c.py")), "c.py").experiment
        monkeypatch.setattr("agrifm.compat.weights.open_checkpoint", lambda path, experiment: Checkpoint(own, {}))
        assert commands.inference(["c.py", "best.safetensors", "maps"]) == 0
        (_, source, out), kwargs = recorded.calls["predict"]
        assert (source.label_key, out) == (None, Path("maps"))
        assert kwargs == {"suffix": "_pred", "force_png": True}
        assert "agrifm predict best.safetensors data/example/h5_samples maps" in capsys.readouterr().out


def test_a_configuration_that_ends_itself_is_an_error(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("a = 1\nraise SystemExit(0)\n")
    with pytest.raises(InputError, match="SystemExit") as caught:
        read(path)
    assert caught.value.where == f"{path}:2"
