"""From images (B, 3, H, W) to mask features (B, E, H/4, W/4) and three coarser maps."""

from torch import Tensor, nn
from transformers.backbone_utils import load_backbone
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelLevelModule,
    Mask2FormerPixelLevelModuleOutput,
)

from tmt.runtime.precision import without_autocast

from .bands import compute_in_bands
from .configuration import TMTConfig
from .pixel_decoder import PixelDecoder


class PixelLevelModule(Mask2FormerPixelLevelModule):
    """Mask2Former's backbone and multi-scale deformable pixel decoder, the latter in its weights' dtype under autocast.

    The pixel decoder's sampling positions and group norms lose too much in half precision: train it in float32.
    """

    def __init__(self, config: TMTConfig):
        nn.Module.__init__(self)  # transformers' would build a decoder of its own
        self.encoder = load_backbone(config)
        compute_in_bands(self.encoder)
        self.decoder = PixelDecoder(config, self.encoder.channels)

    def freeze_unused(self) -> None:
        """Swin's norm behind its last stage feeds nothing here: without a gradient it would stall plain DDP."""
        for name, parameter in self.encoder.named_parameters():
            if name.startswith("swin.layernorm."):
                parameter.requires_grad_(False)

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = False) -> Mask2FormerPixelLevelModuleOutput:
        """pixel_values (B, 3, H, W) -> features as transformers names them:

        decoder_last_hidden_state: mask features (B, E, H/4, W/4); decoder_hidden_states: (B, C, H/32, W/32),
        (B, C, H/16, W/16), (B, C, H/8, W/8); encoder_last_hidden_state: the backbone's last map; sizes round up.
        """
        maps = self.encoder(pixel_values).feature_maps
        with without_autocast(pixel_values):
            dtype = self.decoder.level_embed.dtype
            decoded = self.decoder([feature.to(dtype) for feature in maps])
        return Mask2FormerPixelLevelModuleOutput(
            encoder_last_hidden_state=maps[-1],
            encoder_hidden_states=tuple(maps) if output_hidden_states else None,
            decoder_last_hidden_state=decoded.mask_features,
            decoder_hidden_states=decoded.maps,
        )
