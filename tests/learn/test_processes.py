# SPDX-License-Identifier: Apache-2.0
"""Two processes under torchrun learn what one learns from both their batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from learning_networks import batches, network, options, parted_run, pictures, weights
from torch.utils.data import DataLoader, TensorDataset

from thinmaps.errors import BadArgument, BadData
from thinmaps.learn import PictureLoader, distill
from thinmaps.learn.batches import EndlessBatches

TESTS = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")

PROGRAM = """
import sys, torch
torch.set_num_threads(1)
from learning_networks import batches, network, options, parted_run, weights
from thinmaps.learn import distill

folder = sys.argv[1]
chosen = dict(optimizer=torch.optim.SGD, log=folder, checkpoint=folder + "/run.ckpt",
    checkpoint_every=3, resume=True)

def interrupt(what, done, of):
    if done == 4: raise KeyboardInterrupt

try:
    stopping = options(**chosen, progress=interrupt)
    distill(network(2), network(1), batches(6), steps=6, options=stopping)
except KeyboardInterrupt:
    pass
student = network(7)
result = distill(student, network(1), batches(6), steps=6, options=options(**chosen))
assert result.resumed_from == 3
rank = torch.distributed.get_rank()
torch.save(weights(student), f"{folder}/{rank}.pt")

parted = parted_run(batches(6))
torch.save(weights(parted), f"{folder}/parted{rank}.pt")
"""


def torchrun(folder: Path) -> None:
    """The program in two processes, on the CPU, alone on the machine."""
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, folder / "program.py", folder],
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_two_processes_end_alike_and_as_one_with_both_their_batches(tmp_path: Path) -> None:
    torchrun(tmp_path)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert torch.equal(*ranks)

    both = [torch.cat(pair) for pair in zip(batches(6)[::2], batches(6)[1::2], strict=True)]
    alone = network(2)
    start = weights(alone)
    chosen = options(optimizer=torch.optim.SGD)
    result = distill(alone, network(1), both, steps=6, options=chosen)
    # Two halves of a mean are summed in another order: some roundings of 2^-24 per step.
    assert torch.allclose(ranks[0], weights(alone), rtol=1e-5, atol=1e-6)
    assert (weights(alone) - start).abs().max() > 1e-3
    parted = [torch.load(tmp_path / f"parted{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert torch.equal(*parted)
    assert torch.allclose(parted[0], weights(parted_run(both)), rtol=1e-5, atol=1e-6)
    rows = (tmp_path / "training.jsonl").read_text().splitlines()
    assert len(rows) == 6
    assert f'"loss": {result.rows[-1].loss:.4f}'[:13] in rows[-1]


def test_processes_share_any_list_and_leave_its_rest() -> None:
    given = batches(5, 2)
    shares = [EndlessBatches(given, CPU, rank, 2) for rank in (0, 1)]
    taken = [[share.take().pictures for _ in range(3)] for share in shares]
    for rank, expected in enumerate(([0, 2, 0], [1, 3, 1])):
        assert all(torch.equal(a, given[b]) for a, b in zip(taken[rank], expected, strict=True))


def test_a_data_loader_without_a_distributed_sampler_is_refused_under_processes() -> None:
    loader = DataLoader(TensorDataset(pictures(4)), 2)
    with pytest.raises(BadArgument, match=r"2 processes would read the same.*DistributedSampler"):
        EndlessBatches(loader, CPU, 0, 2)
    sampler = torch.utils.data.DistributedSampler(range(8), 2, 0)
    shared = DataLoader(TensorDataset(pictures(8)), 4, sampler=sampler)
    endless = EndlessBatches(shared, CPU, 0, 2)
    first, second = (endless.take().pictures for _ in range(2))
    assert not torch.equal(first, second)  # another epoch, another order


def test_one_process_cannot_go_on_for_two(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    distill(network(2), network(1), batches(1), steps=1, options=options(checkpoint=path))
    state = torch.load(path, weights_only=True)
    state["run"]["processes"] = 2
    torch.save(state, path)
    chosen = options(checkpoint=path, resume=True)
    with pytest.raises(BadArgument, match="processes 2 there and 1 here"):
        distill(network(2), network(1), batches(1), steps=1, options=chosen)


def test_pictures_are_shared_so_that_two_batches_make_the_one_of_one_process() -> None:
    import numpy as np

    grey = np.random.default_rng(0).integers(0, 256, (11, 4, 4, 3), np.uint8)
    whole = PictureLoader(grey, 4, (4, 4))
    parts = [PictureLoader(grey, 2, (4, 4)).shared(rank, 2) for rank in (0, 1)]
    for one, *two in zip(whole, *parts, strict=True):
        assert torch.equal(one, torch.cat(two))
    with pytest.raises(BadData, match="12 processes cannot share 11 pictures"):
        whole.shared(0, 12)
