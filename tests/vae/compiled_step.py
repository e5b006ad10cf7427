"""Run by a test, in a process whose functions are not wrapped in type checks: a compiled step beside an uncompiled."""

from __future__ import annotations

import torch
from family import build, frozen, network
from torch._dynamo.utils import counters

from vae import fit, linear
from vae.config import Column, ModelConfig, Objective
from vae.model import VAE

if __name__ == "__main__":
    columns = tuple(Column(name=f"x{index}", likelihood="gaussian") for index in range(3))
    of = fit.Loss(build(ModelConfig(columns=columns, network=network()), shake=0.2), Objective())
    values, noise = torch.randn(12, 3).double(), frozen(of.model, of.objective, 12)
    fast, outcomes = fit.compiled(of, rows=12), []
    for each in (of, fast):
        adam = fit.optimizer(of.parameters(), learning_rate=0.0)
        found = [fit.step(each, adam, values, None, noise, share=1 / 12, beta=beta) for beta in (0.25, 0.5)]
        gradients = [it.grad for it in of.parameters() if it.grad is not None]
        found.append(fit.step(each, adam, values[:5], None, noise.take(slice(5)), share=1 / 5))
        outcomes.append([*found, *gradients])
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    print(f"{counters['stats']['unique_graphs']} graph, {len(counters['graph_break'])} breaks")
    linear.onednn_is_faster = torch.backends.mkldnn.is_available
    layer, x = linear.Linear(96, 64), torch.randn(12, 96, requires_grad=True)
    for layer_like in (layer, torch.compile(layer)):
        layer_like(x).tanh().sum().backward()
    once = [it.grad / 2 for it in (x, layer.weight, layer.bias)]
    layer.zero_grad()
    x.grad = None
    layer(x).tanh().sum().backward()
    for one, other in zip(once, [x.grad, layer.weight.grad, layer.bias.grad], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    print("the same names:", list(of.model.state_dict()) == list(VAE(of.model.config).state_dict()))
