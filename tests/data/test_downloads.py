"""CIFAR-10 and Fashion-MNIST, on artificial files in their formats, without a network."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import tarfile
import urllib.request
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from prunelab.data import Cifar10, FashionMnist, cifar10, fashion_mnist
from prunelab.data.download import Archive
from prunelab.errors import UserError


def write_cifar10(root: Path, per_file: int = 20) -> np.ndarray:
    """Writes files in the format of CIFAR-10; returns the pixels of the first training file, (N, 3, 32, 32)."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    first = None
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        pixels = random.integers(0, 256, (per_file, 3072), dtype=np.uint8)
        first = pixels if first is None else first
        labels = [number % 10 for number in range(per_file)]
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    return first.reshape(per_file, 3, 32, 32)


def write_fashion_mnist(root: Path, images: int = 40) -> np.ndarray:
    """Writes files in the format of Fashion-MNIST; returns the training pixels, (N, 28, 28)."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (images, 28, 28), dtype=np.uint8)
    labels = (np.arange(images) % 10).astype(np.uint8)
    for part in ("train", "t10k"):
        image_header = np.array([0x803, images, 28, 28], dtype=">i4").tobytes()
        label_header = np.array([0x801, images], dtype=">i4").tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(image_header + pixels.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(label_header + labels.tobytes())
    return pixels


@pytest.fixture
def small_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets of 100 and 20, and of 40 and 40 images are complete."""
    monkeypatch.setattr(cifar10, "ARCHIVE", replace(cifar10.ARCHIVE, images=(100, 20)))
    monkeypatch.setattr(fashion_mnist, "ARCHIVE", replace(fashion_mnist.ARCHIVE, images=(40, 40)))


@pytest.fixture
def no_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torchvision.datasets.cifar, "check_integrity", lambda path, md5=None: Path(path).exists()
    )


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", fail)


def test_cifar10_is_read_into_memory(tmp_path: Path, no_checksums: None, small_sets: None):
    pixels = write_cifar10(tmp_path)
    data = Cifar10(tmp_path, batch_size=16)
    data.prepare_data()
    data.setup()
    assert (data.name, data.num_classes, data.image_shape) == ("cifar10", 10, (3, 32, 32))
    assert (len(data.train), len(data.val), len(data.test)) == (90, 10, 20)
    images, targets = data.train.source.batch(np.arange(20), None)
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
    expected = (torch.from_numpy(pixels) / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(images, expected)
    assert targets.tolist() == [number % 10 for number in range(20)]
    assert next(iter(data.train_dataloader()))[0].shape == (16, 3, 32, 32)


def test_fashion_mnist_is_read_into_memory(tmp_path: Path, small_sets: None):
    pixels = write_fashion_mnist(tmp_path)
    data = FashionMnist(tmp_path, val_fraction=0.25)
    data.prepare_data()
    data.setup()
    assert (data.name, data.num_classes, data.image_shape) == ("fashion_mnist", 10, (1, 28, 28))
    assert (len(data.train), len(data.val), len(data.test)) == (30, 10, 40)
    images, targets = data.train.source.batch(np.arange(40), None)
    torch.testing.assert_close(images, (torch.from_numpy(pixels)[:, None] / 255 - 0.2860) / 0.3530)
    assert targets.tolist() == [number % 10 for number in range(40)]


@pytest.mark.parametrize(
    ("data_class", "folder", "address"),
    [(Cifar10, "cifar-10-batches-py", "cs.toronto.edu"), (FashionMnist, "FashionMNIST", "zalandoresearch")],
)
def test_without_a_network_the_message_names_the_place_for_the_files(
    tmp_path: Path, no_network: None, data_class: type, folder: str, address: str
):
    root = tmp_path / "sets"
    with pytest.raises(UserError) as caught:
        data_class(root).prepare_data()
    message = str(caught.value)
    assert f"could not be downloaded into {root}" in message and "no route to host" in message
    assert address in message and "PRUNELAB_DATA" in message and f"contains {folder}/" in message
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("data_class", [Cifar10, FashionMnist])
def test_missing_files_are_reported_by_setup(tmp_path: Path, data_class: type):
    with pytest.raises(UserError, match=r"(?s)is missing or damaged in .*rename it") as caught:
        data_class(tmp_path).setup()
    assert "remove" not in str(caught.value).lower() and "delete" not in str(caught.value).lower()


@pytest.mark.parametrize("part", ["training", "test"])
def test_a_part_of_a_published_set_is_not_taken_for_the_set(
    tmp_path: Path, no_checksums: None, monkeypatch: pytest.MonkeyPatch, part: str
):
    complete = (40, 10_000) if part == "test" else (60_000, 40)
    monkeypatch.setattr(fashion_mnist, "ARCHIVE", replace(fashion_mnist.ARCHIVE, images=complete))
    monkeypatch.setattr(cifar10, "ARCHIVE", replace(cifar10.ARCHIVE, images=(100, 10_000)))
    write_fashion_mnist(tmp_path)
    write_cifar10(tmp_path)
    with pytest.raises(UserError, match=rf"holds 40 {part} images, but Fashion-MNIST has [16]0,000"):
        FashionMnist(tmp_path, val_fraction=0.25).setup()
    with pytest.raises(UserError, match=r"holds 20 test images, but CIFAR-10 has 10,000"):
        Cifar10(tmp_path).setup()


def test_the_numbers_of_images_are_the_published_ones():
    assert (cifar10.ARCHIVE.images, fashion_mnist.ARCHIVE.images) == ((50_000, 10_000), (60_000, 10_000))


@pytest.fixture
def packed_fashion_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The four .gz files of a small set, whose checksums count as the published ones."""
    write_fashion_mnist(tmp_path / "made")
    files = {
        f"{path.name}.gz": gzip.compress(path.read_bytes()) for path in (tmp_path / "made").rglob("*-ubyte")
    }
    checksums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", list(checksums.items()))
    archive = replace(fashion_mnist.ARCHIVE, packed=checksums, images=(40, 40))
    monkeypatch.setattr(fashion_mnist, "ARCHIVE", archive)
    return files


@pytest.mark.parametrize("place", ["", "FashionMNIST", "FashionMNIST/raw"])
def test_packed_files_are_unpacked(
    tmp_path: Path, no_network: None, packed_fashion_mnist: dict[str, bytes], place: str
):
    root = tmp_path / "sets"
    (root / place).mkdir(parents=True)
    for name, content in packed_fashion_mnist.items():
        (root / place / name).write_bytes(content)
    data = FashionMnist(root, val_fraction=0.25)
    data.prepare_data()
    data.setup()
    assert (len(data.train), len(data.test)) == (30, 40)
    for name, content in packed_fashion_mnist.items():  # files of the user are kept
        assert (root / place / name).read_bytes() == content
    assert len(list(root.rglob("*.gz"))) == 4
    assert not list(root.glob(".download-*"))


def test_a_damaged_packed_file_is_named_and_kept(
    tmp_path: Path, no_network: None, packed_fashion_mnist: dict[str, bytes]
):
    for name, content in packed_fashion_mnist.items():
        (tmp_path / name).write_bytes(content[:50] if name.startswith("t10k-images") else content)
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte.gz has a wrong checksum and was not used"):
        FashionMnist(tmp_path).prepare_data()
    assert len((tmp_path / "t10k-images-idx3-ubyte.gz").read_bytes()) == 50
    assert not (tmp_path / "FashionMNIST").exists()


def test_the_packed_archive_of_cifar10_is_unpacked(
    tmp_path: Path, no_network: None, no_checksums: None, monkeypatch: pytest.MonkeyPatch, small_sets: None
):
    write_cifar10(tmp_path / "made")
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")
    content = archive.read_bytes()
    checksum = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", checksum)
    monkeypatch.setattr(cifar10, "ARCHIVE", replace(cifar10.ARCHIVE, packed={archive.name: checksum}))
    data = Cifar10(tmp_path)
    data.prepare_data()
    data.setup()
    assert len(data.test) == 20
    assert archive.read_bytes() == content


@pytest.mark.parametrize("kept", [0, 3, 10, 200, 5000])
def test_a_truncated_file_is_reported_by_setup(tmp_path: Path, kept: int):
    write_fashion_mnist(tmp_path)
    images = tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"Fashion-MNIST is missing or damaged in .*FashionMNIST: \S"):
        FashionMnist(tmp_path).setup()


def test_a_damaged_file_is_reported_by_setup(tmp_path: Path):
    write_cifar10(tmp_path)  # with checksums, which these files do not have
    with pytest.raises(UserError, match=r"CIFAR-10 is missing or damaged in .*cifar-10-batches-py"):
        Cifar10(tmp_path).setup()


def archive(fetch) -> Archive:
    return Archive("Toy", dataset=fetch, folder="toy", address="example.org", by_hand="unpack it there")


def test_a_download_arrives_complete_and_happens_once(tmp_path: Path):
    calls = []

    def fetch(root, train, download):
        calls.append(root)
        (Path(root) / "toy").mkdir()
        (Path(root) / "toy" / "images").write_text("pixels")

    for _ in range(2):
        archive(fetch).download(tmp_path / "new" / "root")
    assert len(calls) == 1
    assert [path.name for path in (tmp_path / "new" / "root").iterdir()] == ["toy"]
    assert (tmp_path / "new" / "root" / "toy" / "images").read_text() == "pixels"


def test_an_interrupted_download_leaves_nothing_behind(tmp_path: Path):
    def fetch(root, train, download):
        (Path(root) / "toy").mkdir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        archive(fetch).download(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_of_two_downloads_the_first_is_kept(tmp_path: Path):
    def fetch(root, train, download):
        (Path(root) / "toy").mkdir()
        (tmp_path / "toy").mkdir()
        (tmp_path / "toy" / "first").touch()

    archive(fetch).download(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["toy", "first"]
