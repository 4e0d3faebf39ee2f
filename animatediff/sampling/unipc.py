"""UniPC (arXiv 2302.04867) with its numbers on the CPU."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

_Diffusers: Any = UniPCMultistepScheduler


@dataclass(frozen=True)
class _Interval:
    """A step between two noise levels, as numbers on the CPU.

    ``log_snr`` is that of its start: the logarithm of alpha / sigma.
    """

    ratio: Tensor
    """sigma at its end by sigma at its start"""
    alpha: Tensor
    """alpha at its end"""
    log_snr: Tensor
    h: Tensor
    """how much ``log_snr`` grows"""
    growth: Tensor
    """e^-h - 1: both the factor of the prediction and the paper's B(h), variant 2"""


class UniPC(_Diffusers):
    """diffusers' UniPC of at most order 2, in its variant "bh2", predicting x_0.

    diffusers sends the noise levels to the device in every step, and solves a system of
    two equations there; both make the host wait. Here they are numbers on the CPU,
    which multiply the device's tensors. The results on a CPU are the same.
    """

    def multistep_uni_p_bh_update(
        self, *_args: Any, sample: Tensor, order: int, **_kwargs: Any
    ) -> Tensor:
        """Predict the sample at the next step: algorithm 2 of the paper."""
        step: int = self.step_index
        interval = self._interval(step, step + 1)
        x = self._first_order(interval, sample)
        if order == 1:
            return x.to(sample.dtype)
        _, difference = self._difference(interval, step - 1)
        return (x - interval.alpha * interval.growth * (0.5 * difference)).to(
            sample.dtype
        )

    def multistep_uni_c_bh_update(
        self,
        this_model_output: Tensor,
        *_args: Any,
        last_sample: Tensor,
        order: int,
        **_kwargs: Any,
    ) -> Tensor:
        """Correct this step's sample by its prediction: algorithm 1 of the paper."""
        step: int = self.step_index
        interval = self._interval(step - 1, step)
        newest = this_model_output - self.model_outputs[-1]
        if order == 1:
            correction = 0.5 * newest
        else:
            place, difference = self._difference(interval, step - 2)
            older, newer = _weights(interval.h, place)
            correction = older * difference + newer * newest
        x = self._first_order(interval, last_sample)
        x = x - interval.alpha * interval.growth * correction
        return x.to(last_sample.dtype)

    def _interval(self, start: int, end: int) -> _Interval:
        alpha, sigma = self._level(end)
        alpha_start, sigma_start = self._level(start)
        log_snr = torch.log(alpha_start) - torch.log(sigma_start)
        h = torch.log(alpha) - torch.log(sigma) - log_snr
        return _Interval(sigma / sigma_start, alpha, log_snr, h, torch.expm1(-h))

    def _level(self, step: int) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma."""
        return self._sigma_to_alpha_sigma_t(self.sigmas[step])

    def _first_order(self, interval: _Interval, sample: Tensor) -> Tensor:
        scaled = interval.ratio * sample
        return scaled - interval.alpha * interval.growth * self.model_outputs[-1]

    def _difference(self, interval: _Interval, step: int) -> tuple[Tensor, Tensor]:
        """Return the place of ``step`` in the interval, and the slope to there."""
        alpha, sigma = self._level(step)
        place = (torch.log(alpha) - torch.log(sigma) - interval.log_snr) / interval.h
        return place, (self.model_outputs[-2] - self.model_outputs[-1]) / place


def _weights(h: Tensor, place: Tensor) -> Tensor:
    """Return the weights of two differences, the older one first (section 3)."""
    places = torch.stack([place, torch.ones(())])
    powers = torch.stack([torch.ones(2), places])
    first = torch.expm1(-h) / -h - 1
    second = first / -h - 1 / 2
    sums = torch.stack([first, second * 2]) / torch.expm1(-h)
    linalg: Any = torch.linalg
    return linalg.solve(powers, sums)
