"""The example data in the original's configuration schema, small enough for a laptop without a GPU.

Write the data with ``agrifm data example data/example``, then run ``python train.py configs/cropland_mapping.py``.
Every key is one of the original's; docs/from-the-original.md lists what becomes of each.
"""

custom_imports = dict(imports=["AgriFM"], allow_failed_imports=False)

# Helper variables. Width, frames and patch decide the channels of the neck: at every level
# (frames // patch) * width, because each stage doubles the width and halves the frames.
img_size = 48  # pixels of 20 m: a quarter of the work
num_frames = 16
num_classes = 6
patch_size = (2, 2, 2)
swin_in_embed_dim = 16
embed_dim = num_frames // patch_size[0] * swin_in_embed_dim
data_path = "data/example/h5_samples"
data_list_path = "data/example/data_lists"
work_dir = "work_dirs/cropland_mapping"

# Of the training chips, clouds included, since this schema knows no cloud masks.
mean = {"S2": [2182, 2348, 2409, 3753, 2614, 3290, 3596, 3801, 3025, 2279]}
std = {"S2": [2299, 2124, 2099, 1498, 1994, 1633, 1518, 1489, 1027, 935]}

valid_pipelines = [
    dict(type="MapNormalize", mean=mean, std=std),
    dict(type="MapResize", size={"S2": (img_size, img_size), "label": (img_size, img_size)}),
]
train_pipelines = [
    dict(type="MapVerticalFlip", p=0.5),
    dict(type="MapHorizontalFlip", p=0.5),
    *valid_pipelines,
]


def loader(split, pipelines, shuffle):
    """One data loader; the three differ in their list and steps only."""
    return dict(
        batch_size=4,
        num_workers=1,
        persistent_workers=True,
        sampler=dict(type="DefaultSampler", shuffle=shuffle),
        collate_fn=dict(type="default_collate"),
        dataset=dict(
            type="MappingDataset",
            data_toot_path=data_path,
            data_list_file=f"{data_list_path}/{split}.txt",
            data_pipelines=pipelines,
            data_keys=("S2",),
            label_key="label",
        ),
    )


train_dataloader = loader("train", train_pipelines, shuffle=True)
val_dataloader = loader("val", valid_pipelines, shuffle=False)
test_dataloader = loader("test", valid_pipelines, shuffle=False)

model = dict(
    type="MultiUnifiedModel",
    encoders=dict(
        type="MultiModalEncoder",
        encoders_cfg=dict(
            S2=dict(
                type="PretrainingSwinTransformer3DEncoder",
                patch_emd_cfg=dict(
                    type="SwinPatchEmbed3D", patch_size=patch_size, in_chans=10, embed_dim=swin_in_embed_dim
                ),
                backbone_cfg=dict(
                    type="SwinTransformer3D",
                    pretrained=None,
                    patch_size=patch_size,
                    embed_dim=swin_in_embed_dim,
                    depths=[1, 1, 1, 1],
                    num_heads=[1, 2, 4, 8],
                    window_size=(8, 7, 7),
                    mlp_ratio=2.0,
                    drop_path_rate=0.0,
                    feature_fusion="cat",
                    mean_frame_down=True,
                ),
                init_cfg=None,
            ),
        ),
    ),
    neck=dict(
        type="MultiFusionNeck",
        embed_dim=embed_dim,
        in_feature_key=("S2",),
        feature_size=(img_size // 16, img_size // 16),
        out_size=(img_size, img_size),
        in_fusion_key_list=({"S2": embed_dim}, {"S2": embed_dim}, {"S2": embed_dim}),
    ),
    head=dict(
        type="CropFCNHead",
        num_classes=num_classes,
        embed_dim=embed_dim,
        loss_model=dict(type="CropCEloss", ignore_index=-1),
    ),
)

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=3, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optimizer = dict(type="AdamW", lr=2e-3, weight_decay=0.01)
optim_wrapper = dict(type="OptimWrapper", optimizer=optimizer, clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=3),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=3),
]
val_evaluator = dict(type="CropIoUMetric", iou_metrics=["mFscore", "mIoU"], num_classes=num_classes, ignore_index=-1)
test_evaluator = val_evaluator
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=10),
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=1, save_best="mFscore", rule="greater"),
)
randomness = dict(seed=0)
default_scope = "mmseg"
log_level = "INFO"
