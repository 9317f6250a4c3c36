# SPDX-License-Identifier: BSD-3-Clause
"""The settings that ptychodus sends, one dataclass for each of its panes.

Names are PtychoPINN's, defaults those of ptychodus' panes. They are made in ptychodus' own process and pickled to the
one that works, so this module imports neither torch nor anything else that is slow. What a setting does here is in
:mod:`ptycho_torch.mapping`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class DataConfig:
    """How patterns are grouped."""

    N: int = 128
    C: int = 4
    K: int = 6
    K_quadrant: int = 30
    n_subsample: int = 7
    grid_size: tuple[int, int] = (2, 2)
    neighbor_function: str = "Nearest"
    min_neighbor_distance: float = 0.0
    max_neighbor_distance: float = 3.0
    scan_pattern: str = "Isotropic"
    normalize: str = "Batch"
    probe_scale: float = 4.0
    probe_normalize: bool = True
    probe_ramp_removal: bool = False
    data_scaling: str = "Parseval"
    phase_subtraction: bool = True
    x_bounds: tuple[float, float] = (0.1, 0.9)
    y_bounds: tuple[float, float] = (0.1, 0.9)


@dataclass
class ModelConfig:
    """The network."""

    mode: str = "Unsupervised"
    object_big: bool = True
    probe_big: bool = True
    loss_function: str = "Poisson"
    amp_activation: str = "silu"
    cbam_encoder: bool = True
    cbam_bottleneck: bool = False
    cbam_decoder: bool = False
    eca_encoder: bool = False
    eca_decoder: bool = False
    spatial_decoder: bool = False
    decoder_spatial_kernel: int = 7
    decoder_last_c_outer_fraction: float = 0.125
    decoder_last_amp_channels: int = 4
    use_shared_decoder: bool = False
    intensity_scale_trainable: bool = False
    intensity_scale: float = 1e4
    max_position_jitter: int = 10
    num_datasets: int = 1
    C_model: int = 4
    C_forward: int = 4
    n_filters_scale: int = 2
    batch_norm: bool = False
    probe_mask: object = None
    edge_pad: int = 10
    offset: int = 6
    amp_loss: str | None = None
    phase_loss: str | None = None
    amp_loss_coeff: float = 1.0
    phase_loss_coeff: float = 1.0
    probe_reference_coeff: float = 0.0
    amplitude_variance_loss: bool = False
    amplitude_variance_coeff: float = 0.01


@dataclass
class TrainingConfig:
    """The training. ptychodus sets ``n_devices`` once more after the settings were made."""

    epochs: int = 50
    batch_size: int = 16
    learning_rate: float = 1e-3
    n_devices: int = 1
    num_workers: int = 4
    accum_steps: int = 1
    epochs_fine_tune: int = 0
    fine_tune_gamma: float = 0.1
    gradient_clip_val: float | None = None
    nll: bool = True
    device: str = "cuda"
    strategy: str = "ddp_spawn"
    framework: str = "Lightning"
    orchestrator: str = "Lightning"
    scheduler: str = "Default"
    warmup_epochs: int = 0
    min_lr_ratio: float = 0.1
    notes: str = ""
    model_name: str = "PtychoPINNv2"
    enable_staged_finetuning: bool = False
    finetune_stage1_epochs: int = 7
    finetune_stage2_epochs: int = 7
    finetune_stage3_epochs: int = 5
    finetune_stage1_lr_decoder: float = 0.1
    finetune_stage2_lr_encoder_top: float = 0.01
    finetune_stage2_lr_decoder: float = 0.05
    finetune_stage2_lr_phase_head: float = 0.1
    finetune_stage3_lr_encoder_bottom: float = 0.005
    finetune_stage3_lr_encoder_top: float = 0.01
    finetune_stage3_lr_decoder: float = 0.02
    finetune_stage3_lr_phase_head: float = 0.05
    finetune_skip_stage3: bool = True
    finetune_early_stop_patience: int = 3
    finetune_val_split: float = 0.05


@dataclass
class InferenceConfig:
    """The reconstruction."""

    batch_size: int = 1000
    middle_trim: int = 32
    experiment_number: int = 0
    pad_eval: bool = True
    window: int = 20
    patch_weighting: str = "probe"


@dataclass
class DatagenConfig:
    """Simulation, which ptychodus does not ask for."""
