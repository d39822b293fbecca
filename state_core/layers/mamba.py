"""The Mamba-2 layer (Dao & Gu 2024, arXiv 2405.21060), with `mamba_ssm.Mamba2`'s parameters.

Glossary, shapes once:
    B, T, D      batch, tokens, model width (d_model)
    E            inner width (d_inner = expand * D), cut into H heads of P channels (headdim)
    N, G         state size per channel (d_state); groups of heads that share B and C (ngroups)
    W            taps of the short convolution (d_conv); it runs over xBC, E + 2 G N channels
    z  [B,T,E]   the gate: the output is y * silu(z), then normalised
    x  [B,T,H,P] what is written into the state
    B  [B,T,G,N] where it is written: a key
    C  [B,T,G,N] what is read: a query
    dt [B,T,H]   the step, positive. A large step forgets the past and takes the token in; a small
                 one keeps the state and passes the token by
    A  [H]       negative: a step multiplies the state by exp(dt A)
    D  [H]       the skip: each head adds D x to its output (as a parameter; a shape elsewhere)

Everything that a token needs of the past is a Mamba2State: the last W-1 inputs of the convolution
and the state of the recurrence, both of fixed size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from state_core.errors import ConfigError, InputError
from state_core.layers.point import Point
from state_core.ops.causal_conv1d import causal_conv1d
from state_core.ops.gated_rms_norm import gated_rms_norm
from state_core.ops.ssd import ssd


@dataclass
class Mamba2State:
    """What a sequence leaves for its continuation: conv [B,W-1,E+2GN], ssm [B,H,P,N]."""

    conv: Tensor
    ssm: Tensor


class GatedRMSNorm(nn.Module):
    """RMS norm of y * silu(z) over each of `groups` slices."""

    def __init__(self, width: int, groups: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups = groups
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """[B,T,E] twice → [B,T,E]."""
        return gated_rms_norm(y, z, self.weight, self.groups, self.eps)


class Mamba2(nn.Module):
    """A linear-time causal mixer, [B,T,D] → [B,T,D].

    Parameters carry the names, shapes and order of `mamba_ssm.Mamba2` (so does a `Mamba2Mixer` of
    transformers): `load_state_dict` takes theirs as they are. No bias but the convolution's.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        d_conv: int = 4,
        expand: float = 2,
        headdim: int = 64,
        ngroups: int = 1,
        chunk_size: int = 64,
        A_init_range: tuple[float, float] = (1.0, 16.0),
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
    ) -> None:
        super().__init__()
        self.d_inner = int(expand * d_model)
        if self.d_inner < headdim or self.d_inner % headdim:
            raise ConfigError(
                f"Mamba-2: int(expand * d_model) = {self.d_inner} must be a multiple of "
                f"headdim = {headdim}"
            )
        self.n_heads = self.d_inner // headdim
        if self.n_heads % ngroups:
            raise ConfigError(f"Mamba-2: ngroups = {ngroups} must divide the {self.n_heads} heads")
        self.d_state = d_state
        self.headdim = headdim
        self.ngroups = ngroups
        self.chunk_size = chunk_size
        channels = self.d_inner + 2 * ngroups * d_state

        self.in_proj = nn.Linear(d_model, self.d_inner + channels + self.n_heads, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, d_conv, groups=channels, padding=d_conv - 1)
        self.dt_bias = nn.Parameter(_initial_dt_bias(self.n_heads, dt_min, dt_max, dt_init_floor))
        self.A_log = nn.Parameter(torch.empty(self.n_heads).uniform_(*A_init_range).log())
        self.D = nn.Parameter(torch.ones(self.n_heads))
        self.norm = GatedRMSNorm(self.d_inner, ngroups)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        self.gate = Point("[B,T,E]")
        self.delta = Point("[B,T,H]")
        self.x = Point("[B,T,H,P]")
        self.B, self.C = Point("[B,T,G,N]"), Point("[B,T,G,N]")
        self.y = Point("[B,T,H,P]")

    def forward(
        self, x: Tensor, state: Mamba2State | None = None, step_bias: Tensor | None = None
    ) -> tuple[Tensor, Mamba2State]:
        """x [B,T,D] and the state that the text so far left (None at its start) → y, new state.

        step_bias [B,T,H]: what else says how much a token resets the state, before the softplus.
        """
        if x.dim() != 3 or x.shape[1] < 1 or x.shape[2] != self.in_proj.in_features:
            raise InputError(
                f"Mamba-2: expected [B,T,{self.in_proj.in_features}] with T >= 1, "
                f"got {list(x.shape)}"
            )
        z, xBC, step = self.in_proj(x).split(
            [self.d_inner, self.conv1d.in_channels, self.n_heads], dim=-1
        )
        xBC, conv = causal_conv1d(
            xBC,
            self.conv1d.weight[:, 0],
            self.conv1d.bias,
            None if state is None else state.conv,
            activation="silu",
            return_state=True,
        )
        keys = self.ngroups * self.d_state
        values, B, C = xBC.split([self.d_inner, keys, keys], dim=-1)
        step = (step if step_bias is None else step + step_bias) + self.dt_bias
        y, ssm = ssd(
            self.x(values.unflatten(-1, (self.n_heads, self.headdim))),
            self.delta(F.softplus(step)),
            -self.A_log.exp(),
            self.B(B.unflatten(-1, (self.ngroups, self.d_state))),
            self.C(C.unflatten(-1, (self.ngroups, self.d_state))),
            self.D,
            None if state is None else state.ssm,
            return_state=True,
            chunk_size=self.chunk_size,
        )
        y, z = self.y(y), self.gate(z)
        return self.out_proj(self.norm(y.flatten(2), z)), Mamba2State(conv, ssm)


def _initial_dt_bias(heads: int, dt_min: float, dt_max: float, floor: float) -> Tensor:
    """The inverse softplus of steps drawn log-uniformly from [dt_min, dt_max]."""
    low, high = math.log(dt_min), math.log(dt_max)
    dt = torch.empty(heads).uniform_(low, high).exp().clamp(min=floor)
    return dt + torch.log(-torch.expm1(-dt))
