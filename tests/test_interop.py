"""The operator among PyTorch's other parts: TorchScript, autocast, copies, DDP, functorch."""

import copy
import io
import os
import pickle

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from cases import CASES, Case
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import dcn

PLAIN = CASES[0]


class Model(nn.Module):
    """A convolution, a pack of each kind and the bare module, as a network holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.first = dcn.DeformConv2dPack(4, 4, 3, padding=1, activation=F.relu)
        self.second = dcn.ModulatedDeformConv2dPack(4, 6, 3, stride=2, padding=1, groups=2)
        self.offset = nn.Conv2d(6, 18, 1)
        self.third = dcn.DeformConv2d(6, 5, 3, padding=1)

    def forward(self, x):
        x = self.second(self.first(self.stem(x)))
        return self.third(x, self.offset(x))


def model(device: str = "cpu") -> Model:
    torch.manual_seed(0)
    made = Model()
    for parameter in (*made.first.conv_offset.parameters(), *made.second.conv_offset.parameters()):
        nn.init.normal_(parameter, std=0.2)
    return made.to(device)


def images(device: str = "cpu", n: int = 2) -> torch.Tensor:
    return torch.rand(n, 3, 10, 9, generator=torch.Generator().manual_seed(0)).to(device)


def gradients(module, x) -> list[torch.Tensor]:
    module.zero_grad()
    module(x).square().mean().backward()
    return [parameter.grad.clone() for parameter in module.parameters()]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torchscript(device):
    plain, x = model(device), images(device)
    scripted = torch.jit.script(plain)
    torch.testing.assert_close(scripted(x), plain(x))
    torch.testing.assert_close(gradients(scripted, x), gradients(plain, x))
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    torch.testing.assert_close(torch.jit.load(file)(x), plain(x))
    traced = torch.jit.trace(plain, x)
    torch.testing.assert_close(traced(images(device, 3)), plain(images(device, 3)))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_the_scripted_function():
    scripted = torch.jit.script(dcn.deform_conv2d)
    tensors = PLAIN.tensors()
    expected = dcn.deform_conv2d(**tensors, padding=1)
    assert torch.equal(scripted(**tensors, padding=1), expected)
    assert torch.equal(scripted(**tensors, padding=(1, 1)), expected)
    with pytest.raises(torch.jit.Error, match="the shape of the offset tensor at dimension 1"):
        scripted(**(tensors | {"offset": tensors["offset"][:, :4]}), padding=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype, device):
    module, x = model(device), images(device)
    expected, expected_grads = module(x), gradients(module, x)
    with torch.autocast(device, dtype):
        out = module(x)
        grads = gradients(module, x)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.05)
    for grad, parameter, wanted in zip(grads, module.parameters(), expected_grads, strict=True):
        assert grad.dtype == parameter.dtype == torch.float32
        assert F.cosine_similarity(grad.flatten(), wanted.flatten(), dim=0) > 0.95


def test_autocast_keeps_a_float32_offset(device):
    """A ramp read 0.25 px off, near 2000 px, where 16 bits have no fraction left."""
    x = torch.ones(1, 1, 1, 2048, device=device)
    x[..., 2001] = 3.0
    offset = torch.zeros(1, 2, 1, 2048, device=device)
    offset[:, 1] = 0.25
    weight = torch.ones(1, 1, 1, 1, device=device)
    with torch.autocast(device, torch.float16):
        out = dcn.deform_conv2d(x, offset, weight)
    assert out.dtype == torch.float16 and out[0, 0, 0, 2000] == 1.5


def test_autocast_leaves_float64_alone(device):
    with torch.autocast(device, torch.bfloat16):
        out = dcn.deform_conv2d(**PLAIN.tensors(device=device), **PLAIN.geometry)
    assert out.dtype == torch.float64


def test_mixed_precision_training(device):
    module, x = model(device), images(device)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler(device)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        with torch.autocast(device, torch.float16):
            loss = F.mse_loss(module(x).float(), x[:, :1, ::2, ::2].expand(-1, 5, -1, -1))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_are_equal_and_separate(clone, device):
    module, x = model(device), images(device)
    again = clone(module)
    assert repr(again) == repr(module) and torch.equal(again(x), module(x))
    with torch.no_grad():
        again.second.conv_offset.weight.add_(1)
    assert not torch.equal(again(x), module(x))


def test_the_state_dict_comes_back(tmp_path):
    module = model()
    torch.save(module.state_dict(), tmp_path / "model.pt")
    again = Model()
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(again(images()), module(images()))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant, device):
    module, x = model(device), images(device).requires_grad_()
    expected = gradients(module, x)
    module.zero_grad()
    checkpoint(module, x, use_reentrant=reentrant).square().mean().backward()
    torch.testing.assert_close([p.grad for p in module.parameters()], expected)


def test_saved_tensor_hooks_see_the_inputs_alone(device):
    tensors = PLAIN.tensors(device=device, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (saved.append(tensor.shape), tensor.cpu())[1],
        lambda tensor: tensor.to(device),
    ):
        out = dcn.deform_conv2d(**tensors, **PLAIN.geometry)
    out.sum().backward()
    names = ("input", "weight", "offset", "mask")
    assert sorted(saved) == sorted(tensors[name].shape for name in names)
    assert all(tensor.grad is not None for tensor in tensors.values())


def test_functorch_grad(device):
    tensors = PLAIN.tensors(device=device)

    def loss(tensors):
        return dcn.deform_conv2d(**tensors, **PLAIN.geometry).square().sum()

    grads = torch.func.grad(loss)(tensors)
    for tensor in tensors.values():
        tensor.requires_grad_()
    loss(tensors).backward()
    for name, tensor in tensors.items():
        torch.testing.assert_close(grads[name], tensor.grad)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_functorch_vmap(device):
    calls = [PLAIN.tensors(device=device) for _ in range(3)]
    for i, call in enumerate(calls):
        call["weight"] = call["weight"] * i
    stacked = {name: torch.stack([call[name] for call in calls]) for name in calls[0]}

    def convolve(tensors):
        return dcn.deform_conv2d(**tensors, **PLAIN.geometry)

    expected = torch.stack([convolve(call) for call in calls])
    torch.testing.assert_close(torch.func.vmap(convolve)(stacked), expected)
    grads = torch.func.vmap(torch.func.grad(lambda call: convolve(call).square().sum()))(stacked)
    for i, call in enumerate(calls):
        alone = torch.func.grad(lambda call: convolve(call).square().sum())(call)
        torch.testing.assert_close({name: grad[i] for name, grad in grads.items()}, alone)


def test_functorch_through_the_function_class():
    tensors = PLAIN.tensors()

    def loss(input, weight):
        out = dcn.DeformConv2dFunction.apply(
            input, weight, tensors["offset"], tensors["mask"], None, *PLAIN.geometry.values(), 1, 1
        )
        return out.square().sum()

    weights = torch.stack([tensors["weight"], tensors["weight"] * 2])
    grads = torch.func.vmap(torch.func.grad(loss), (None, 0))(tensors["input"], weights)
    torch.testing.assert_close(grads[1], grads[0] * 4)


def test_forward_mode_is_refused_in_a_sentence():
    tensors = PLAIN.tensors()
    with pytest.raises(NotImplementedError, match=r"forward-mode .* not supported"):
        torch.func.jvp(
            lambda input: dcn.deform_conv2d(**(tensors | {"input": input}), **PLAIN.geometry),
            (tensors["input"],),
            (tensors["input"],),
        )


@pytest.mark.parametrize("name", list(PLAIN.tensors()))
def test_only_what_needs_a_gradient_gets_one(name, device):
    tensors = PLAIN.tensors(device=device)
    tensors[name].requires_grad_()
    dcn.deform_conv2d(**tensors, **PLAIN.geometry).square().sum().backward()
    assert [key for key, tensor in tensors.items() if tensor.grad is not None] == [name]


def test_no_images_train(device):
    module = model(device)
    out = module(images(device)[:0])
    out.sum().backward()
    assert out.shape == (0, 5, 5, 5)
    assert all(not parameter.grad.any() for parameter in module.parameters())


def test_inference_mode(device):
    case = Case("", groups=2, offset_groups=2)
    tensors = case.tensors(device=device, requires_grad=True)
    with torch.inference_mode():
        out = dcn.deform_conv2d(**tensors, **case.geometry)
    assert out.is_inference()
    torch.testing.assert_close(out.clone(), dcn.deform_conv2d(**tensors, **case.geometry).detach())


def _train_one_of_two(rank: int, device: str, sharded: bool, store: str, results: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(rank)
    backend = {"cpu": "gloo", "cuda": "nccl"}[device]
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=2)
    module, x = model(device), images(device, n=4)[rank * 2 : rank * 2 + 2]
    if sharded:
        mesh = init_device_mesh(device, (2,))
        for part in (module.first, module.second, module.third, module):
            fully_shard(part, mesh=mesh)
        assert all(isinstance(parameter, DTensor) for parameter in module.parameters())
        grads = [grad.full_tensor().cpu() for grad in gradients(module, x)]
    else:
        grads = [grad.cpu() for grad in gradients(DistributedDataParallel(module), x)]
    torch.save(grads, f"{results}/{rank}.pt")
    dist.barrier()  # gloo may abort where one leaves while the other is in a collective
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
@pytest.mark.parametrize("sharded", [False, True], ids=["DDP", "FSDP2"])
def test_two_processes_train_as_one(sharded, device, tmp_path):
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("one GPU alone")
    torch.multiprocessing.spawn(
        _train_one_of_two, (device, sharded, str(tmp_path / "store"), str(tmp_path)), nprocs=2
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    expected = [grad.cpu() for grad in gradients(model(device), images(device, n=4))]
    assert all(map(torch.equal, first, second))
    torch.testing.assert_close(first, expected)


def _forward_in_child(queue):
    torch.set_num_threads(1)
    module = dcn.ModulatedDeformConv2dPack(4, 4, 3, padding=1)
    queue.put(module(torch.ones(1, 4, 8, 8)).isfinite().all().item())


def test_it_works_after_a_fork():
    """As in the workers of a DataLoader, after the parent has used its threads."""
    dcn.ModulatedDeformConv2dPack(4, 4, 3, padding=1)(torch.ones(4, 4, 32, 32)).sum().backward()
    context = torch.multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_forward_in_child, args=(queue,))
    child.start()
    child.join(60)
    assert child.exitcode == 0 and queue.get()
