"""Every setting of a run, its default and its meaning. Field docstrings feed `--help`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeVar

Auto = Literal["auto"]
AUTO: Auto = "auto"

Value = TypeVar("Value")


def settled(value: Value | Auto) -> Value:
    """The value of a setting that is no longer "auto"."""
    assert value != AUTO, "this setting is read before it is decided"
    return value


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The images and how they become pixels."""

    path: str | None = None
    """Folder of class folders, a folder with train/ and val/, a CSV, or a folder of shards: Parquet
    or tars in the WebDataset layout. Short: data."""
    image_size: int | tuple[int, int] | Auto = AUTO
    """Pixels a side the student sees; a pair is height,width. Short: image_size."""
    resize: Literal["auto", "shorter", "squash"] = AUTO
    """For evaluation: 'shorter' keeps the aspect and crops the centre, 'squash' keeps all."""
    crop_ratio: float | Auto = AUTO
    """Share of the resized short side that the centre crop of 'shorter' keeps."""
    channels: int = 3
    """1 reads every picture as greyscale, 3 as colour; other counts come from Python arrays."""
    mean: tuple[float, ...] | Auto = AUTO
    """Mean of each channel, 0 to 1, taken away before the model. auto: of the training images."""
    std: tuple[float, ...] | Auto = AUTO
    """Standard deviation of each channel, 0 to 1, divided by. auto: of the training images."""
    val_fraction: float = 0.1
    """Share of the training images kept for validation where the data has no val split."""
    folds: int = 0
    """Cross-validation: so many runs, each validated on another part of the training and validation
    images, then one run on all of them. For few images. 0: off. Short: folds."""
    fold: int = 0
    """Which of the folds, from 1, this run is validated on; 0: all of them, one after the other."""
    bad_images: Literal["skip", "fail"] = "skip"
    """What an unreadable image does: it is left out and listed, or it stops the run."""
    background: tuple[int, int, int] = (255, 255, 255)
    """Colour put under transparent pixels."""
    max_pixels: int = 50_000_000
    """Larger images are left out, judged by their header, before they are decoded."""
    min_side: int = 8
    """Images with a smaller side, in pixels, are left out."""
    fail_on_leak: bool = False
    """Stop when the same picture is in training and validation; otherwise it is a warning."""
    allow_empty_class: bool = False
    """Keep the place of a class folder without a usable image."""
    follow_symlinks_outside: bool = False
    """Read pictures that links point to outside the data folder; otherwise they are left out."""
    image_cache: Literal["auto", "memory", "disk", "off"] = AUTO
    """Where decoded images are kept; changes no weight. auto: in memory where they fill at most a
    quarter of what is free, on disk where they fit into half of it, else nowhere."""
    image_cache_folder: str | None = None
    """Folder of image caches on disk; your own cache folder where left out."""
    source_side: int | Literal["auto", "whole", "scaled"] = AUTO
    """What training views are cut from: 'whole' images, images whose short side is reduced to so
    many pixels, or JPEGs decoded at a part of their sides where the view needs no more ('scaled').
    Evaluation always reads whole images. auto: whole in memory, reduced on disk, else scaled."""
    remember_scan: bool = True
    """Keep in your own cache folder what reading the images found, so that the next start reads
    only files that changed; changes no weight. Images that all fit into memory are read anyway."""
    order: Literal["auto", "images", "blocks"] = AUTO
    """How an epoch is shuffled: images, all together; blocks, of shards, each read once an epoch:
    blocks stand in any order, and images are shuffled among those that fill window_mb. auto: blocks
    for shards larger than that, which are not kept in memory."""
    window_mb: int = 256
    """Megabytes of shards that are shuffled together in the order blocks; each worker holds them.
    Larger mixes better where shards are sorted."""
    balance: Literal["auto", "none", "sampling", "logits"] = AUTO
    """For classes of very different sizes: sampling shows images of small classes more often;
    logits adds the log of each class's share to the logits in the label loss. auto: none, or where
    the largest class has three times the images of the smallest sampling, with a teacher logits."""
    balance_strength: float | Auto = AUTO
    """Of sampling: 1 shows all classes alike often, 0.5 by the square root of their images; of
    logits: tau, the factor of the log. auto: 0.5 and 1."""
    labels: str | None = None
    """A CSV of corrected labels, as `deitkit review` writes, laid over them. Short: labels."""
    unlabelled: str | None = None
    """A folder of pictures without labels: only the teacher speaks of them. Short: unlabelled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The student. Empty fields keep what the name says."""

    name: str = AUTO
    """One of `deitkit.list_models()`, for example deit_tiny_distilled_patch16_224. Short: model."""
    init: str = AUTO
    """Where the weights start: scratch, a run or bundle folder, a weights file (.safetensors,
    .pth), a Hugging Face folder, hf:owner/name or timm:name. auto: for photographs a trained DeiT
    where one can be had. Short: init."""
    init_dist_token: Literal["new", "cls"] = "new"
    """What a distillation token that the start lacks begins as: new, or the class token's copy."""
    init_stem: Literal["fitting", "new", "teacher"] = "fitting"
    """What a pooling stem begins as: new, or the first stages of a teacher that is a quick_cnn of
    its width and stride. fitting: the teacher's where they fit."""
    patch_size: int | None = None
    """Pixels a side of one patch."""
    embed_dim: int | None = None
    """Width of a token."""
    depth: int | None = None
    """Number of transformer blocks."""
    num_heads: int | None = None
    """Attention heads; they divide the width."""
    mlp_ratio: float | None = None
    """Hidden width of the MLP over the width of a token."""
    qkv_bias: bool | None = None
    """Whether queries, keys and values have a bias."""
    attn_drop: float | None = None
    """Dropout on attention weights."""
    proj_drop: float | None = None
    """Dropout after attention and MLP projections."""
    pos_drop: float | None = None
    """Dropout after the position embedding."""
    drop_path: float | None = None
    """Stochastic depth: chance that the last block is skipped for an image. The paper: 0.1."""
    drop_path_schedule: Literal["linear", "constant"] | None = None
    """linear: rising from 0 over the depth (the paper); constant: the same in all (DeiT III)."""
    layer_scale: float | None = None
    """Start value of LayerScale; none leaves it out. DeiT III: 1e-4."""
    pos_embed_cls: bool | None = None
    """Whether class and distillation token have a position too; DeiT III: false."""
    stem: Literal["linear", "conv", "pooling"] | None = None
    """How patches become tokens: one projection, overlapping convolutions, or the first stages of a
    quick_cnn."""
    stem_width: int | None = None
    """Channels of the pooling stem's first stage."""
    stem_blocks: int | None = None
    """Stages of the pooling stem, three at most."""
    mlp_conv: bool | None = None
    """Whether a depthwise convolution in each block lets patches hear their neighbours."""
    pool: Literal["token", "mean"] | None = None
    """What a head reads: its token (the paper), or its token plus the mean of all patches."""
    weight_init: Literal["trunc_normal", "kaiming", "identity", "constant"] | None = None
    """How weights of a new model are drawn. identity: as kaiming, but each block begins by passing
    its input on."""
    grad_checkpointing: bool = False
    """Compute each block twice and keep less of it: for large models on little memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewsConfig:
    """What chance does to a training picture. One view is drawn per picture and epoch."""

    crop: Literal["auto", "random_resized", "padded", "none"] = AUTO
    """random_resized for photographs; padded shifts small images by a few pixels."""
    scale: tuple[float, float] | Auto = AUTO
    """Share of the picture's area a random resized crop covers, least and most. Paper: 0.08,1."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Aspect ratio of a random resized crop, least and most."""
    padding: float | Auto = AUTO
    """A padded crop moves by up to this share of each side: 0.125 is 4 pixels of 32."""
    flip: float | Auto = AUTO
    """Chance of a left-right flip; 0 where mirroring would change the label, as in digits."""
    mixup: float | Auto = AUTO
    """Mixup's Beta parameter, 0 for none. The paper: 0.8."""
    cutmix: float | Auto = AUTO
    """CutMix's Beta parameter, 0 for none. The paper: 1."""
    mix_prob: float | Auto = AUTO
    """Chance that a pair of pictures is mixed at all. The paper: 1."""
    switch_prob: float = 0.5
    """Chance of CutMix rather than Mixup where both are on."""
    auto_augment: str = AUTO
    """none, autoaugment (ImageNet's policy), 3augment (DeiT III), trivial, or RandAugment as timm
    spells it: rand-m9-mstd0.5-inc1 (the paper); n3 draws three operations, p0.7 sets their
    chance."""
    rand_ops: tuple[str, ...] = ()
    """RandAugment's operations, with commas between; empty: all 15."""
    color_jitter: float = 0.0
    """Brightness, contrast and saturation change by up to this share. DeiT III: 0.3."""
    erasing: float | Auto = AUTO
    """Chance that a rectangle is erased. The paper: 0.25."""
    erasing_fill: Literal["pixel", "color", "mean", "constant"] = "pixel"
    """What fills it: noise in each pixel (the paper), one random colour, the mean colour, black."""
    erasing_scale: tuple[float, float] = (0.02, 1 / 3)
    """Share of the picture an erased rectangle covers, least and most."""
    erasing_ratio: tuple[float, float] = (0.3, 1 / 0.3)
    """Its height over its width, least and most."""
    repeats: int = 1
    """Repeated augmentation: views of one picture in a batch. An epoch then shows the same number
    of views of fewer pictures, and as many epochs show them all. The paper: 3."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """How the student learns from the teacher."""

    teacher: str | None = None
    """A run or bundle folder, timm:NAME, timm:NAME@weights.safetensors, hf:owner/name, hf:folder, a
    file .onnx, or auto, which trains one first. Without a teacher the student learns from labels.
    Short: teacher."""
    teacher_share: float | None = None
    """Of the budget, what teacher=auto may take to train its teacher, above 0 to 0.9. None: 0.3 for
    a quick_cnn, whose first stages the student may begin with, else 0.15."""
    kind: Literal["auto", "soft", "standardised", "hard", "none"] = AUTO
    """soft: the teacher's probabilities; standardised: the same of z-scored logits; hard: its
    first choice (the paper); none. auto: standardised, and soft for two classes."""
    weight: float | Auto = AUTO
    """Share of the teacher in the loss, 0 to 1. The paper: 0.5 for hard, 0.1 for soft."""
    until: float | Auto = AUTO
    """Share of the epochs, from the first on, in which the teacher is asked, 0 to 1; after them the
    student learns from the labels alone, with both heads, and asking costs nothing any more. 0
    takes nothing of a teacher but the stages that a stem begins as. The paper: 1."""
    temperature: float | Auto = AUTO
    """Softmax temperature, above 0; only the soft kinds read it. The paper's tau: 3. auto: 3, and 2
    for standardised."""
    reduction: Literal["batchmean", "numel"] = "batchmean"
    """numel divides by images times classes, as the authors' code does."""
    fusion: Literal["mean", "softmax", "fitted"] = "mean"
    """How the two heads answer as one: the mean of their logits, of their probabilities (the
    paper's text), or with one weight found on the validation images after training."""
    teacher_cache: Literal["auto", "off", "memory", "disk"] = AUTO
    """Where the teacher's answers are kept, so that each view is asked for once: on disk also for
    the next student. auto: on disk, unless asking costs next to nothing. Short: teacher_cache."""
    cache_folder: str | None = None
    """Folder of the caches on disk. None: the user's own cache folder."""
    cache_dtype: Literal["float16", "float32"] = "float16"
    """How logits are stored; float32 are the live teacher's bits."""
    cache_top_k: int | None = None
    """Store only so many of an answer's largest logits, where disks are small; kind soft only."""
    view_epochs: int | Auto = AUTO
    """Epochs of different views; later epochs show the same views again, in another order, with the
    answers that are stored. auto: as many as the budget has time to ask for. Short: view_epochs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """The optimizer and its batch."""

    name: Literal["auto", "adamw", "sgd", "muon"] = AUTO
    """adamw (the paper), sgd with Nesterov's momentum, or muon: orthogonal steps for the matrices
    and kernels of the blocks, AdamW for the rest. auto: muon from scratch with pooling blocks
    (quick_cnn, `_quick`), else adamw."""
    batch_size: int | Auto = AUTO
    """Images in one optimisation step, over all ranks. Short: batch_size."""
    device_batch_size: int | Auto = AUTO
    """Images on a device at once; smaller than its share means gradients are accumulated."""
    lr: float | Auto = AUTO
    """Learning rate at a batch of 512; it is scaled by batch_size / 512. Short: lr."""
    min_lr: float | Auto = AUTO
    """Learning rate at the end of the cosine, at the batch in use."""
    warmup: float | Auto = AUTO
    """Share of the steps over which the learning rate rises."""
    warmup_lr: float = 1e-6
    """Learning rate of the first step, at the batch in use."""
    weight_decay: float | Auto = AUTO
    """Decay of weight matrices; biases, norms, tokens and positions have none. auto: 0.05, the
    paper's, and 1e-4 with sgd, where it is a part of the gradient."""
    layer_decay: float | Auto = AUTO
    """Each block learns this much slower than the one above it; 1: all the same. auto: 0.75 when
    trained weights are fine-tuned."""
    momentum: float | Auto = AUTO
    """SGD's and Muon's momentum. auto: 0.9, and 0.95 with muon."""
    hidden_lr: float | Auto = AUTO
    """Of muon: the rate of the matrices and kernels over that of the rest. auto: 6 with pooling
    blocks, else 1."""
    beta1: float = 0.9
    """AdamW's decay of the first moment."""
    beta2: float = 0.999
    """AdamW's decay of the second moment."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    clip_norm: float | None = 1.0
    """Largest norm of the gradient; none does not clip. The paper does not."""
    label_smoothing: float = 0.1
    """Share of the target spread over all classes."""
    label_loss: Literal["cross_entropy", "binary"] = "cross_entropy"
    """binary: each class on its own, a mixed picture is of both (DeiT III)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """How long to train."""

    epochs: int | Auto = AUTO
    """Passes over the training images. Short: epochs."""
    budget: str | Auto = AUTO
    """Time for the whole command: 90s, 30m, 2h. auto: at most 30 minutes, unless epochs says how
    long. With both, whichever ends first. Short: budget."""
    sizes: tuple[int, ...] = ()
    """Sides of the training images in equal parts of the run, the last data.image_size: growing,
    as 128,160,224, they cost about half the time. Empty: always data.image_size. Short: sizes."""
    strengths: tuple[float, ...] | Auto = AUTO
    """How strongly pictures are changed in equal parts of the run, as shares of the full strength:
    0.5,0.75,1 beside three sizes. They act on RandAugment's magnitude (with inc1), the colour
    jitter, and the chances of erasing and mixing. auto: full, but none for the last tenth where
    auto chose to mix. Short: strengths."""
    strategy: Literal["one", "auto"] = "one"
    """one trains what the other settings say; auto tries within the budget what could win (a linear
    classifier on frozen features, fine-tuning, with the teacher and without, from scratch), drops
    losers early and spends the rest on the winner. Short: strategy."""
    steps: int | Auto = AUTO
    """Optimisation steps; fixed before the first one and never changed after."""
    eval_interval: int | Auto = AUTO
    """Steps between two evaluations on the validation images."""
    patience: int = 0
    """Evaluations in a row that are better in neither accuracy nor likelihood, after which training
    ends early; 0 never. For long runs on few images."""
    checkpoint_interval: int | Auto = AUTO
    """Steps between two checkpoints; what a power cut costs at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmaConfig:
    """A running average of the weights, evaluated beside them."""

    half_life: float = 0.02
    """After this share of the run an old weight counts half; 0 keeps no average."""
    decay: float | None = None
    """A literal decay per step instead: 0.99996 in the authors' code."""
    warmup: bool = True
    """Let the average follow quickly at the start, so that it forgets the first weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSection:
    """The machine, the folder and chance."""

    out: str | None = None
    """Folder of the run; the same command on it goes on where it stopped. Short: out."""
    seed: int = 0
    """Sets view_seed and weight_seed. Short: seed."""
    view_seed: int | None = None
    """Chance in the data: order, crops, mixing. None: seed."""
    weight_seed: int | None = None
    """Chance in the model: first weights, dropped paths. None: seed."""
    workers: int | Auto = AUTO
    """Processes that decode and render images; 0 does it in the training process."""
    ranks: int | Auto = 1
    """Processes that compute; above 1 starts them on this machine, as torchrun would. auto: one for
    each CUDA device; on a CPU one for each core where a few timed steps show that they are faster
    than one process with all threads. Short: ranks."""
    device: str = AUTO
    """auto takes CUDA, then Apple's MPS, then the CPU. Short: device."""
    precision: Literal["auto", "float32", "bfloat16"] = AUTO
    """What the products of training are computed in, the teacher's too; weights, gradients and
    averages are float32. auto: bfloat16 on CUDA that has it and on CPUs with AMX, which answer
    validation images in float32 all the same."""
    compile: bool | Auto = AUTO
    """Compile the student's transformer blocks for training (torch.compile; needs a C++ compiler).
    It takes about a minute before the first step. auto: on CUDA where training takes ten minutes or
    more; on a CPU it was not faster."""
    overwrite: bool = False
    """Start anew in a folder that holds a run. Short: overwrite."""
    accept_changes: bool = False
    """Go on with a run under other settings; it is then no longer the run of its first command."""
    require_exact: bool = False
    """Refuse to go on where the result could differ from an uninterrupted run."""
    log_interval: int = 10
    """Steps between two lines in metrics.jsonl."""
    report: bool = True
    """Write report.html when the run ends, also when it is interrupted."""
    tensorboard: bool = False
    """Write the same numbers as metrics.jsonl for TensorBoard (deitkit[tensorboard])."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """A run, whole. `section.field=value` on the command line, the same nesting in a file."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    run: RunSection = field(default_factory=RunSection)
