"""Attention plug-ins, a paper and a file each: `Plugin(channels, ...)`, (B, C, *spatial) -> the same shape.

`explained(x) -> {name: map}` says what a plug-in computes on x in eval, and changes nothing in it:

- `gate` and `gate_<word>` multiply x, `added` and `added_<word>` are added: the output is the product of all
  gates times x plus the sum of all that is added. (B, C) is per channel, (B, 1, *spatial) per pixel,
  (B, C, *spatial) both.
- `attention` and `attention_<word>` are weights that sum to 1 over what is attended to: (B, Q, *spatial) over
  the pixels, one map for each channel or query (64 spread over the map, `networks.explaining.spread_places`,
  where every pixel is one), or (B, Q, K) over K others, such as channels.
- All others are there to be looked at.
"""

from dsnet_med.networks.plugins.cbam import CBAM
from dsnet_med.networks.plugins.channel_attention import ChannelAttention
from dsnet_med.networks.plugins.criss_cross import CrissCross
from dsnet_med.networks.plugins.dsm import DSM
from dsnet_med.networks.plugins.eca import ECA
from dsnet_med.networks.plugins.encoding import Encoding
from dsnet_med.networks.plugins.external_attention import ExternalAttention
from dsnet_med.networks.plugins.frequency_channel import FrequencyChannel
from dsnet_med.networks.plugins.global_context import GlobalContext
from dsnet_med.networks.plugins.hamburger import Hamburger
from dsnet_med.networks.plugins.placebo import ConstantGate, Identity, PointwiseConv, RandomGate
from dsnet_med.networks.plugins.pooled_dsm import PooledDSM
from dsnet_med.networks.plugins.position_attention import PositionAttention
from dsnet_med.networks.plugins.psa import PSA
from dsnet_med.networks.plugins.se import SE
from dsnet_med.networks.plugins.squeezed import Squeezed
from dsnet_med.networks.plugins.uniform_dsm import UniformDSM

__all__ = [
    "CBAM",
    "DSM",
    "ECA",
    "PSA",
    "SE",
    "ChannelAttention",
    "ConstantGate",
    "CrissCross",
    "Encoding",
    "ExternalAttention",
    "FrequencyChannel",
    "GlobalContext",
    "Hamburger",
    "Identity",
    "PointwiseConv",
    "PooledDSM",
    "PositionAttention",
    "RandomGate",
    "Squeezed",
    "UniformDSM",
]
