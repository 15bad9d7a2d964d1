"""From images (B, 3, H, W) to mask features (B, E, H/4, W/4) and three coarser maps."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers.backbone_utils import load_backbone
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelLevelModule,
    Mask2FormerPixelLevelModuleOutput,
)

from tmt.runtime.precision import without_autocast

from .bands import compute_in_bands
from .configuration import TMTConfig
from .layout import layout_of, maps_of
from .pixel_decoder import PixelDecoder
from .pyramid import Pyramid


class PixelLevelModule(Mask2FormerPixelLevelModule):
    """Mask2Former's backbone and multi-scale deformable pixel decoder, the latter in its weights' dtype under autocast.

    The pixel decoder's sampling positions and group norms lose too much in half precision: train it in float32.
    """

    def __init__(self, config: TMTConfig):
        nn.Module.__init__(self)  # transformers' would build a decoder of its own
        backbone: Any = config.backbone_config
        self.layout = layout_of(backbone)
        if list(self.layout.features) != backbone.out_features:
            backbone.out_features = list(self.layout.features)
        self.encoder = load_backbone(config)
        compute_in_bands(self.encoder)
        self.pyramid = Pyramid(self.layout.channels[0], self.layout.strides[0]) if self.layout.plain else None
        channels = self.layout.channels if self.pyramid is None else self.pyramid.channels
        self.decoder = PixelDecoder(config, list(channels))
        self.frozen, self.frozen_norms = config.freeze_backbone, config.freeze_backbone_norms

    def freeze_unused(self) -> None:
        """Freeze the backbone's weights that none of its maps depends on, without a gradient they would stall plain
        DDP; and what the configuration says."""
        for name, parameter in self.encoder.named_parameters():
            if self.frozen or name in self.layout.unused:
                parameter.requires_grad_(False)
        for norm in self._batch_norms() if self.frozen_norms else ():
            norm.requires_grad_(False)

    def _batch_norms(self) -> list[nn.Module]:
        return [module for module in self.encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]

    def train(self, mode: bool = True) -> "PixelLevelModule":
        """As nn.Module's; what is frozen of the backbone stays in evaluation mode."""
        super().train(mode)
        for module in [self.encoder] if self.frozen else self._batch_norms() if self.frozen_norms else []:
            module.eval()
        return self

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = False) -> Mask2FormerPixelLevelModuleOutput:
        """pixel_values (B, C, H, W) -> features as transformers names them:

        decoder_last_hidden_state: mask features (B, E, H/4, W/4); decoder_hidden_states: (B, C, H/32, W/32),
        (B, C, H/16, W/16), (B, C, H/8, W/8); encoder_last_hidden_state: the backbone's last map; sizes round up.
        """
        maps = tuple(self._maps(pixel_values))
        with without_autocast(pixel_values):
            dtype = self.decoder.level_embed.dtype
            decoded = self.decoder([feature.to(dtype) for feature in maps])
        return Mask2FormerPixelLevelModuleOutput(
            encoder_last_hidden_state=maps[-1],
            encoder_hidden_states=maps if output_hidden_states else None,  # type: ignore[arg-type]  # any number
            decoder_last_hidden_state=decoded.mask_features,
            decoder_hidden_states=decoded.maps,
        )

    def _maps(self, pixels: Tensor) -> Sequence[Tensor]:
        """pixels (B, C, H, W) -> four maps (B, C_i, H / stride, W / stride), sizes rounded up."""
        maps = maps_of(self.encoder, self.layout, pixels)
        return maps if self.pyramid is None else self.pyramid(maps[0], (pixels.shape[2], pixels.shape[3]))
