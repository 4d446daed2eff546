"""A user's data: three formats read alike, bad input told by name, buckets, and a cache that survives a kill."""

import io
import json
import struct
import sys
import tarfile
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import scrambled, small_config
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgegen import cli
from edgegen.errors import EdgegenError, InputError
from edgegen.model.autoencoder import AutoencoderConfig, Encoder
from edgegen.model.text import ByteTokenizer, EncoderConfig, TextConfig, TextEncoders, Tokenizers
from edgegen.train.data import latent_cache
from edgegen.train.data.bucketed_latents import BucketedLatents, CachedText, LiveText, encode_text
from edgegen.train.data.buckets import assign, cut, make_buckets, model_buckets
from edgegen.train.data.dataset import DataConfig, open_dataset
from edgegen.train.data.dataset_picture import BadPicture, decode_picture
from edgegen.train.data.dataset_sample import Problems
from edgegen.train.data.dataset_shards import read_shard
from edgegen.train.data.latent_cache import LatentCache, index_path, read_index, split, write_index
from edgegen.train.data.tensor_cache import TensorCache
from edgegen.train.stages.loop import ElasticTraining

SIZES = ((96, 64), (64, 96), (64, 64), (80, 80), (100, 64), (64, 100))
COLOURS = {"red": (220, 30, 40), "green": (40, 160, 60), "blue": (30, 90, 220)}


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def samples(count: int = 6) -> list[tuple[str, bytes, list[str]]]:
    """Name, PNG bytes and one or two captions: a square of one colour on white, in several shapes."""
    made = []
    for i in range(count):
        colour = list(COLOURS)[i % 3]
        picture = Image.new("RGB", SIZES[i % len(SIZES)], "white")
        picture.paste(COLOURS[colour], (8 + i, 8, 40 + i, 40))
        made.append((f"p{i:02}", encoded(picture), [f"a {colour} square", f"{colour} {i}"][: 1 + i % 2]))
    return made


def write_jsonl(folder: Path, made) -> None:
    rows = [{"file_name": f"pictures/{name}.png", "text": text} for name, _, texts in made for text in texts]
    (folder / "pictures").mkdir(parents=True)
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, data, _ in made:
        (folder / "pictures" / f"{name}.png").write_bytes(data)


def write_texts(folder: Path, made) -> None:
    folder.mkdir(parents=True)
    for name, data, texts in made:
        (folder / f"{name}.png").write_bytes(data)
        (folder / f"{name}.txt").write_text("\n".join(texts) + "\n")


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def members_of(made) -> list[tuple[str, bytes]]:
    return [
        member
        for name, data, texts in made
        for member in ((f"{name}.png", data), (f"{name}.json", json.dumps({"caption": texts}).encode()))
    ]


def write_shards(folder: Path, made) -> None:
    write_tar(folder / "00000.tar", members_of(made[:4]))
    write_tar(folder / "00001.tar.gz", members_of(made[4:]), "w:gz")


def write_parquet(folder: Path, made, **columns) -> None:
    arrow, parquet = (
        pytest.importorskip("pyarrow", reason="needs the extra [data]"),
        pytest.importorskip("pyarrow.parquet", reason="needs the extra [data]"),
    )
    (folder / "data").mkdir(parents=True)
    images = [{"bytes": data, "path": f"{name}.png"} for name, data, _ in made]
    table = columns or {"image": images, "text": [texts for _, _, texts in made]}
    parquet.write_table(arrow.table(table), folder / "data" / "train-00000-of-00001.parquet", row_group_size=2)


WRITERS = {"jsonl": write_jsonl, "texts": write_texts, "shards": write_shards, "parquet": write_parquet}


def quiet() -> Problems:
    return Problems(tell=lambda line: None)


def read(folder: Path, problems: Problems | None = None, **config):
    return list(open_dataset(DataConfig(str(folder), **config)).samples(problems or quiet()))


def told(problems: Problems) -> dict[str, str]:
    return {name: kind for name, kind, _ in problems.rows}


# formats


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_pictures_and_all_their_captions(kind, tmp_path):
    made, problems = samples(), quiet()
    WRITERS[kind](tmp_path / "d", made)
    found = read(tmp_path / "d", problems)
    assert not problems.rows and len({sample.key for sample in found}) == len(made)
    for sample, (_, data, texts) in zip(found, made, strict=True):
        assert sample.captions == tuple(texts)
        assert np.array_equal(np.asarray(sample.image()), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert open_dataset(DataConfig(str(tmp_path / "d"))).kind == {"jsonl": "folder", "texts": "folder"}.get(kind, kind)


def test_a_single_file_is_a_dataset(tmp_path):
    write_shards(tmp_path, samples())
    assert len(read(tmp_path / "00000.tar")) == 4


def test_nothing_found_says_what_was_looked_for_and_what_is_there(tmp_path):
    (tmp_path / "readme.md").write_text("hello")
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert all(part in str(caught.value) for part in (".png", "captions.jsonl", ".txt", ".tar", ".parquet", "1 .md"))
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "missing")
    with pytest.raises(InputError, match="holds no dataset"):
        read(tmp_path / "readme.md")


def test_two_kinds_in_one_folder_must_be_told_apart(tmp_path):
    write_texts(tmp_path / "d", samples())
    write_shards(tmp_path / "d", samples())
    with pytest.raises(InputError, match="6 of folder.*--set data.kind|of shards and 6 of folder"):
        read(tmp_path / "d")
    assert len(read(tmp_path / "d", kind="folder")) == 6
    with pytest.raises(InputError, match="Did you mean folder"):
        DataConfig(kind="foldr")


@pytest.mark.parametrize("changes", [{"validation": 0.9}, {"max_ratio": 0.5}, {"pixels": -1}])
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(InputError, match=f"data.{next(iter(changes))}"):
        DataConfig(**changes)


# pictures


def checker(mode: str, *colours) -> Image.Image:
    """Left half of one colour, right half of another."""
    picture = Image.new(mode, (8, 4), colours[0])
    picture.paste(colours[1], (4, 0, 8, 4))
    return picture


def halves(data: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    picture = decode_picture(data)
    assert picture.mode == "RGB" and picture.size == (8, 4)
    return picture.getpixel((1, 1)), picture.getpixel((6, 1))


def test_transparency_goes_on_white():
    red = (255, 0, 0)
    assert halves(encoded(checker("RGBA", (*red, 0), (*red, 255)))) == ((255, 255, 255), red)
    assert halves(encoded(checker("RGBA", (0, 0, 0, 128), (*red, 255))))[0] == pytest.approx((127, 127, 127), abs=1)
    assert halves(encoded(checker("LA", (0, 0), (0, 255)))) == ((255, 255, 255), (0, 0, 0))
    palette = checker("P", 0, 1)
    palette.putpalette([9, 9, 9, 255, 0, 0])
    assert halves(encoded(palette)) == ((9, 9, 9), red)
    assert halves(encoded(palette, transparency=0)) == ((255, 255, 255), red)


def test_sixteen_bits_cmyk_and_black_and_white_are_converted():
    grey = np.zeros((4, 8), np.uint16)
    grey[:, :4], grey[:, 4:] = 65535, 128 * 257
    assert halves(encoded(Image.fromarray(grey))) == ((255,) * 3, (128,) * 3)
    cyan = halves(encoded(checker("CMYK", (255, 0, 0, 0), (0, 0, 0, 255)), "TIFF"))
    assert cyan == ((0, 255, 255), (0, 0, 0))
    assert halves(encoded(checker("1", 0, 1))) == ((0,) * 3, (255,) * 3)


def test_of_an_animation_the_first_frame_is_taken_and_a_photo_is_turned_upright():
    frames = [checker("RGB", (255, 0, 0), (0, 0, 255)), checker("RGB", (0, 255, 0), (0, 255, 0))]
    assert halves(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])) == ((255, 0, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    assert halves(encoded(frames[0], exif=exif)) == ((0, 0, 255), (255, 0, 0))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty file"),
        (b"no picture at all", "not one of PNG"),
        (encoded(checker("RGB", "red", "blue"), "JPEG")[:-40], "truncated"),
        (encoded(checker("RGB", "red", "blue"))[:50], ""),
        (bomb(9000, 9000), "9000x9000.*limit is 67,108,864"),
        (bomb(60000, 60000), "limit is 67,108,864"),
        (encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "mode F"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not one of PNG"),
    ],
)
def test_a_picture_that_cannot_be_used_says_why(data, says):
    with pytest.raises(BadPicture, match=says):
        decode_picture(data)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"]),
    st.integers(0, 10**6),
    st.integers(0, 255),
    st.integers(0, 400),
)
def test_a_damaged_picture_is_read_or_refused_and_nothing_else(kind, place, value, cut_off):
    data = bytearray(encoded(checker("RGB", "red", "blue"), kind))
    data[place % len(data)] = value
    try:
        assert decode_picture(bytes(data[: len(data) - cut_off % len(data)])).mode == "RGB"
    except BadPicture:
        pass


# what is wrong with a folder


def test_a_folder_s_faults_are_told_by_name_and_the_rest_goes_on(tmp_path):
    made = samples()
    write_jsonl(tmp_path / "d", made[:3])
    extra = [
        json.dumps({"file_name": "pictures/gone.png", "text": "gone"}),
        "{not json",
        '{"text": "no name"}',
        "",
        json.dumps({"file_name": "../outside.png", "text": "x"}),
        json.dumps({"file_name": "pictures/p02.png"}),
    ]
    with (tmp_path / "d" / "captions.jsonl").open("a") as file:
        file.write("\n" + "\n".join(extra))
    (tmp_path / "outside.png").write_bytes(made[0][1])
    pictures = tmp_path / "d" / "pictures"
    (pictures / "alone.png").write_bytes(made[0][1])
    (pictures / "blank.png").write_bytes(made[0][1])
    (pictures / "blank.txt").write_text(" \n\n")
    (pictures / "latin.png").write_bytes(made[0][1])
    (pictures / "latin.txt").write_bytes(b"caf\xe9")
    (pictures / ".hidden.png").write_bytes(made[0][1])
    problems = quiet()
    assert [sample.key for sample in read(tmp_path / "d", problems)] == [f"pictures/p{i:02}.png" for i in range(3)]
    lines = 1 + sum(len(texts) for _, _, texts in made[:3])
    assert told(problems) == {
        f"captions.jsonl:{lines + 1}": "line that is not JSON", f"captions.jsonl:{lines + 2}": "line without file_name",
        f"captions.jsonl:{lines + 4}": "path outside the dataset",
        f"captions.jsonl:{lines + 5}": "line without a caption", "pictures/alone.png": "picture without a caption",
        "pictures/blank.png": "empty caption", "pictures/latin.png": "unreadable caption",
        "pictures/gone.png": "caption without a picture",
    }  # fmt: skip
    assert problems.summary().startswith("8 left out: 1 ")


def test_only_the_first_problems_are_told_one_by_one():
    lines: list[str] = []
    problems = Problems(tell=lines.append)
    for i in range(100):
        problems.add(f"{i}.png", "empty caption")
    assert len(lines) == 21 and lines[0] == "left out 0.png: empty caption"
    assert problems.summary() == "100 left out: 100 empty caption"


# shards


def test_a_shard_cut_anywhere_gives_its_first_samples_and_says_so(tmp_path):
    made = samples()
    whole = write_tar(tmp_path / "whole.tar", members_of(made)).read_bytes()
    end = len(whole.rstrip(b"\0")) + 512
    for size in range(0, end, 700):
        path = tmp_path / "cut.tar"
        path.write_bytes(whole[:size])
        problems = quiet()
        found = [sample.captions for sample in read_shard(path, "cut.tar", problems)]
        assert found == [tuple(texts) for _, _, texts in made[: len(found)]]
        assert problems.rows and len(found) < len(made)


def test_a_shard_s_faults_are_told_by_name(tmp_path):
    data = samples()[0][1]
    members = [
        ("a/x.jpg", data), ("a/x.txt", b"one\ntwo\n"), ("a/x.seg.png", b"a mask"), ("a/x.cls", b"3"),
        ("nopic.txt", b"words"), ("nocap.png", data), ("bad.png", data), ("bad.json", b"{"), ("empty.png", data),
        ("empty.txt", b" "), ("twice.png", data), ("twice.png", data), ("twice.txt", b"t"), ("a/x.png", data),
        ("a/x.txt", b"again"), ("other.cls", b"7"),
    ]  # fmt: skip
    problems = quiet()
    found = list(read_shard(write_tar(tmp_path / "s.tar", members), "s.tar", problems))
    assert {sample.key: sample.captions for sample in found} == {"s.tar/a/x": ("one", "two"), "s.tar/twice": ("t",)}
    assert told(problems) == {
        "s.tar/nopic": "sample without a picture", "s.tar/nocap": "picture without a caption",
        "s.tar/bad": "unreadable caption", "s.tar/empty": "empty caption", "s.tar/twice.png": "duplicate key",
        "s.tar/a/x": "duplicate key", "s.tar/other": "sample without a picture",
    }  # fmt: skip


def test_what_is_no_tar_is_told_and_the_other_shards_are_read(tmp_path):
    write_shards(tmp_path, samples())
    (tmp_path / "00002.tar").write_bytes(b"not a tar file" * 100)
    (tmp_path / "00003.tgz").write_bytes((tmp_path / "00001.tar.gz").read_bytes()[:200])
    problems = quiet()
    assert len(read(tmp_path, problems)) == 6
    assert told(problems) == {"00002.tar": "damaged shard", "00003.tgz": "damaged shard"}


# parquet


def test_parquet_without_the_columns_says_what_is_there(tmp_path):
    made = samples()
    images = [data for _, data, _ in made]
    write_parquet(tmp_path / "a", made, image=images, label=[1] * 6)
    with pytest.raises(InputError, match=r"no text column named text.*image \(binary\), label \(int64\)"):
        read(tmp_path / "a")
    write_parquet(tmp_path / "b", made, text=["x"] * 6)
    with pytest.raises(InputError, match="no picture column 'image'"):
        read(tmp_path / "b")
    write_parquet(tmp_path / "c", made, pixels=images, en=["x"] * 6, de=["y"] * 6)
    with pytest.raises(InputError, match="data.text_column"):
        read(tmp_path / "c")
    assert [sample.captions for sample in read(tmp_path / "c", text_column="de")] == [("y",)] * 6


def test_parquet_rows_without_content_are_told(tmp_path):
    made, problems = samples(4), quiet()
    images = [{"bytes": None, "path": "elsewhere.png"}, None, *({"bytes": d, "path": None} for _, d, _ in made[2:])]
    write_parquet(tmp_path, made, image=images, text=["a", "b", None, "d"])
    assert [sample.captions for sample in read(tmp_path, problems)] == [("d",)]
    name = "data/train-00000-of-00001.parquet"
    assert told(problems) == {
        f"{name}:0": "picture stored outside the file",
        f"{name}:1": "row without a picture",
        f"{name}:2": "empty caption",
    }


def test_damaged_parquet_and_other_splits_are_told(tmp_path):
    write_parquet(tmp_path, samples())
    whole = (tmp_path / "data" / "train-00000-of-00001.parquet").read_bytes()
    (tmp_path / "data" / "train-00001-of-00002.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "data" / "test-00000-of-00001.parquet").write_bytes(whole)
    problems = quiet()
    assert len(read(tmp_path, problems)) == 6
    assert told(problems) == {
        "data/train-00001-of-00002.parquet": "damaged parquet file",
        "data/test-00000-of-00001.parquet": "file of another split",
    }


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(EdgegenError, match=r"edgegen\[data\]") as caught:
        read(tmp_path)
    assert caught.value.exit_code == 1


# buckets


@pytest.mark.parametrize(("pixels", "ratio"), [(0, 2.0), (256 * 256, 2.0), (512 * 512, 4.0)])
def test_buckets_are_grids_the_model_takes_within_budget_and_ratio(pixels, ratio):
    config = small_config(blocks=4)
    budget = pixels // 256 or 64
    buckets = model_buckets(config, 16, pixels, ratio)
    assert buckets and all(config.fits(bucket) for bucket in buckets)
    assert all(0.85 * budget <= r * c <= budget and max(r / c, c / r) <= ratio for r, c in buckets)
    assert {(c, r) for r, c in buckets} == set(buckets)


def test_the_model_runs_at_every_bucket():
    config = small_config()
    model = scrambled(config)
    for rows, columns in model_buckets(config, 16, 0, 4.0):
        x = torch.randn(1, 4, 2 * rows, 2 * columns)
        out = model(0.5, x, torch.tensor([0.3]), torch.randn(1, 5, 24), torch.ones(1, 5), torch.zeros(1, 24))
        assert out.shape == x.shape and out.isfinite().all()


def test_a_budget_nothing_fits_is_refused():
    with pytest.raises(InputError, match="less than the 256"):
        model_buckets(small_config(), 16, 100)
    with pytest.raises(InputError, match="Try --set data.pixels=1024"):
        model_buckets(small_config(blocks=4), 16, 256)


@settings(max_examples=100, deadline=None)
@given(st.integers(20, 400), st.integers(20, 400))
def test_a_picture_goes_to_the_bucket_of_the_nearest_ratio_and_keeps_its_middle(width, height):
    buckets = make_buckets(lambda grid: grid[0] % 2 == grid[1] % 2 == 0, 64, 2.0)
    rows, columns = assign((width, height), buckets)
    distance = {b: abs(np.log(b[1] / b[0] * height / width)) for b in buckets}
    assert distance[rows, columns] == pytest.approx(min(distance.values()))
    gradient = np.broadcast_to(np.linspace(0, 255, width)[None, :, None], (height, width, 3)).astype(np.uint8)
    pixels = cut(Image.fromarray(gradient.copy()), (columns * 8, rows * 8), 100, 0.95)
    assert pixels.shape == (rows * 8, columns * 8, 3)
    assert abs(float(pixels.mean()) - 127) < 4


def test_too_small_and_too_long_pictures_are_refused_with_the_limit():
    with pytest.raises(BadPicture, match="8x8 would be enlarged 16.0x, the limit is 4.*data.max_enlarge"):
        cut(Image.new("RGB", (8, 8)), (128, 128), 4, 0.5)
    with pytest.raises(BadPicture, match="1000x100 would lose 90%.*data.max_crop"):
        cut(Image.new("RGB", (1000, 100)), (128, 128), 4, 0.5)


# the cache

MODEL = small_config(in_channels=4, grid=(4, 4), blocks=4)
PICTURES = AutoencoderConfig(
    latent_channels=4, encoder_widths=(8, 8), encoder_depths=(1, 1), decoder_widths=(8, 8, 8), decoder_depths=(1, 1, 1)
)
TEXT = TextConfig(word=None, byte=EncoderConfig(258, 24, 16, 1, 2, 2), width=MODEL.text_dim)
SIDE = 16


def encoder(seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(PICTURES).eval()


def cache_of(folder: Path, seed: int = 0) -> LatentCache:
    buckets = [(4, 4), (4, 6), (6, 4)]
    return LatentCache(folder, encoder(seed), buckets, SIDE, DataConfig())


def encode(cache: LatentCache, data: Path, problems: Problems | None = None, **share):
    return cache.encode_(open_dataset(DataConfig(str(data))), problems or quiet(), lambda done: None, **share)


@pytest.fixture
def written(tmp_path) -> Path:
    write_texts(tmp_path / "d", samples())
    return tmp_path / "d"


@pytest.fixture
def calls(monkeypatch) -> Counter:
    """How many pictures were encoded."""
    counter: Counter = Counter()
    true = Encoder.forward

    def counted(self, image):
        counter["pictures"] += len(image)
        return true(self, image)

    monkeypatch.setattr(Encoder, "forward", counted)
    return counter


def test_latents_are_what_the_encoder_makes_of_the_cut_pictures(written, tmp_path):
    cache = cache_of(tmp_path / "cache")
    pictures = encode(cache, written)
    store = cache.open()
    for picture, (_, data, texts) in zip(pictures, samples(), strict=True):
        source = Image.open(io.BytesIO(data)).convert("RGB")
        rows, columns = picture.bucket
        assert picture.captions == tuple(texts) and (rows > columns) == (source.height > source.width * 1.2)
        pixels = cut(source, (columns * SIDE, rows * SIDE), 4, 0.5)
        with torch.no_grad():
            expected = cache.encoder(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255)
        torch.testing.assert_close(store.rows([picture.digest])["latent"].float(), expected, atol=2e-3, rtol=2e-3)


def test_nothing_is_encoded_twice_and_only_what_changed_again(written, tmp_path, calls):
    cache = cache_of(tmp_path / "cache")
    first = encode(cache, written)
    assert calls["pictures"] == 6
    assert encode(cache, written) == first and calls["pictures"] == 6
    (written / "p01.png").write_bytes(encoded(Image.new("RGB", (64, 64), "black")))
    (written / "p07.png").write_bytes((written / "p02.png").read_bytes())  # a copy
    (written / "p07.txt").write_text("again")
    again = encode(cache, written)
    assert calls["pictures"] == 7 and len(again) == 7 and again[6].digest == again[2].digest
    encode(cache_of(tmp_path / "cache", seed=1), written)  # another encoder
    assert calls["pictures"] == 13


def test_a_killed_run_goes_on_where_it_stopped(written, tmp_path, calls, monkeypatch):
    monkeypatch.setattr(latent_cache, "BATCH", 1)
    monkeypatch.setattr("edgegen.train.data.tensor_cache.FLUSH_SECONDS", -1.0)
    expected = encode(cache_of(tmp_path / "whole"), written)
    calls.clear()
    true = LatentCache._encode_

    def killed(self, store, bucket, rows):
        if calls["pictures"] == 3:
            raise KeyboardInterrupt
        true(self, store, bucket, rows)

    monkeypatch.setattr(LatentCache, "_encode_", killed)
    with pytest.raises(KeyboardInterrupt):
        encode(cache_of(tmp_path / "cache"), written)
    monkeypatch.setattr(LatentCache, "_encode_", true)
    (next((tmp_path / "cache").rglob("*.safetensors"))).with_suffix(".safetensors.tmp").write_bytes(b"half")
    cache = cache_of(tmp_path / "cache")
    assert encode(cache, written) == expected and calls["pictures"] == 6
    whole, resumed = cache_of(tmp_path / "whole").open(), cache.open()
    for picture in expected:
        assert torch.equal(whole.rows([picture.digest])["latent"], resumed.rows([picture.digest])["latent"])


def test_a_damaged_shard_is_made_again(written, tmp_path, calls):
    cache = cache_of(tmp_path / "cache")
    encode(cache, written)
    shard = sorted((tmp_path / "cache").rglob("4x4-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-20])
    before = calls["pictures"]
    pictures = encode(cache, written)
    assert calls["pictures"] - before == sum(picture.bucket == (4, 4) for picture in pictures) > 0


def test_processes_that_share_the_work_find_each_other_s(written, tmp_path, calls):
    alone = encode(cache_of(tmp_path / "alone"), written)
    calls.clear()
    cache = cache_of(tmp_path / "shared")
    parts = [encode(cache, written, rank=rank, world=2) for rank in (0, 1)]
    assert calls["pictures"] == 6 and sorted(map(len, parts)) == [3, 3]
    assert encode(cache, written) == alone and calls["pictures"] == 6


def test_an_index_counts_only_for_the_same_files_and_whole_latents(written, tmp_path):
    cache, dataset = cache_of(tmp_path / "cache"), open_dataset(DataConfig(str(written)))
    pictures = encode(cache, written)
    path = index_path(cache, dataset)
    write_index(path, dataset.stamp(), pictures)
    assert read_index(path, dataset.stamp(), cache.open()) == pictures
    (written / "p00.txt").write_text("changed")
    assert read_index(path, dataset.stamp(), cache.open()) is None
    assert (
        read_index(path, json.loads(path.read_text().splitlines()[0])["stamp"], TensorCache(tmp_path / "other", "x"))
        is None
    )
    path.write_text(path.read_text()[:-30])
    assert read_index(path, dataset.stamp(), cache.open()) is None


def test_unusable_pictures_are_told_and_the_rest_encoded(written, tmp_path):
    (written / "p00.png").write_bytes(b"broken")
    (written / "p01.png").write_bytes(encoded(Image.new("RGB", (6, 6))))
    problems = quiet()
    assert len(encode(cache_of(tmp_path / "cache"), written, problems)) == 4
    assert told(problems) == {"p00.png": "unusable picture", "p01.png": "unusable picture"}


def test_the_split_is_by_picture_and_needs_two(written, tmp_path):
    pictures = encode(cache_of(tmp_path / "cache"), written)
    doubled = [*pictures, *(replace(picture, key=f"copy of {picture.key}") for picture in pictures)]
    seen, watched = split(doubled, 0.3, 256)
    assert len(watched) == 4 and not {p.digest for p in seen} & {p.digest for p in watched}
    assert len(split(pictures, 0.5, 1)[1]) == 1 and len(split(pictures, 0.0, 9)[1]) == 1
    with pytest.raises(InputError, match="one usable picture; at least 2"):
        split([pictures[0], pictures[0]], 0.1, 9)
    with pytest.raises(InputError, match="no usable picture"):
        split([], 0.1, 9)


# batches

TRAINING = ElasticTraining(batch=4, drop_caption=0.3)


@pytest.fixture
def bucketed(written, tmp_path) -> BucketedLatents:
    cache = cache_of(tmp_path / "cache")
    pictures = encode(cache, written)
    prompts = ["", *sorted({caption for picture in pictures for caption in picture.captions})]
    g = torch.Generator().manual_seed(0)
    text = CachedText(torch.randn(len(prompts), 6, MODEL.text_dim, generator=g), torch.ones(len(prompts), 6), 3)
    captions = [[prompts.index(caption) for caption in picture.captions] for picture in pictures]
    return BucketedLatents(cache.open(), pictures, captions, text)


def test_a_batch_is_of_one_bucket_and_of_its_seed_and_step_alone(bucketed):
    shapes = Counter()
    for step in range(60):
        batch = bucketed.batch(TRAINING, step, 0, 1)
        shapes[tuple(batch[0].shape)] += 1
        assert batch[0].shape == batch[1].shape and all(len(part) == 4 for part in batch)
    assert set(shapes) == {(4, 4, 8, 8), (4, 4, 8, 12), (4, 4, 12, 8)} and min(shapes.values()) >= 10
    same, other = bucketed.batch(TRAINING, 7, 0, 1), bucketed.batch(replace(TRAINING, seed=1), 7, 0, 1)
    assert all(torch.equal(a, b) for a, b in zip(same, bucketed.batch(TRAINING, 7, 0, 1), strict=True))
    assert same[1].shape != other[1].shape or not torch.equal(same[1], other[1])


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_batch_that_one_would_draw(bucketed, world):
    for step in range(5):
        alone = bucketed.batch(TRAINING, step, 0, 1)
        parts = [bucketed.batch(TRAINING, step, rank, world) for rank in range(world)]
        for whole, shared in zip(alone, zip(*parts, strict=True), strict=True):
            assert torch.equal(whole, torch.cat(shared))


def test_a_batch_pairs_latents_with_their_own_captions_or_the_empty_one(bucketed):
    seen = Counter()
    for step in range(40):
        x0, _, t, text, mask, pooled = bucketed.batch(replace(TRAINING, drop_encoder=0.0), step, 0, 1)
        assert ((0 < t) & (t < 1)).all() and mask.all()
        torch.testing.assert_close(pooled, text.mean(1))
        for latent, tokens in zip(x0, text, strict=True):
            said = next(k for k, other in enumerate(bucketed.text.text) if torch.equal(other, tokens))
            of = [
                m
                for m in range(6)
                if x0.shape[2:] == bucketed.latents([m]).shape[2:] and torch.equal(bucketed.latents([m])[0], latent)
            ]
            assert said == 0 or any(said in bucketed.captions[m] for m in of)
            seen["empty" if said == 0 else "own"] += 1
    assert 0.15 < seen["empty"] / 160 < 0.45


def test_an_encoder_is_dropped_whole_and_never_both(bucketed):
    training, kept = replace(TRAINING, drop_encoder=0.5), Counter()
    for step in range(20):
        mask = bucketed.batch(training, step, 0, 1)[4]
        words, bytes_ = mask[:, :3], mask[:, 3:]
        assert (words == words[:, :1]).all() and (bytes_ == bytes_[:, :1]).all()
        kept.update((bool(w), bool(b)) for w, b in zip(words[:, 0], bytes_[:, 0], strict=True))
    assert (False, False) not in kept and kept[True, False] > 10 and kept[False, True] > 10


def test_groups_hold_every_picture_once_with_its_first_caption(bucketed):
    groups = list(bucketed.groups())
    assert sum(len(group.latents) for group in groups) == 6 and len({g.latents.shape[1:] for g in groups}) == 3
    first = [bucketed.text.text[bucketed.captions[row][0]] for rows in bucketed.buckets.values() for row in rows]
    assert torch.equal(torch.cat([group.text for group in groups]), torch.stack(first))


def test_cached_text_is_live_text_and_is_encoded_once(tmp_path):
    torch.manual_seed(0)
    encoders, tokenizers = TextEncoders(TEXT).eval(), Tokenizers(None, ByteTokenizer(length=24))
    captions = ["", "a dog", "a red heart", "a very long caption that does not fit in all of its tokens"]
    reported: list[int] = []
    store = TensorCache(tmp_path, "m" * 20)
    cached = encode_text(captions, tokenizers, encoders, store, 1e9, reported.append)
    live = encode_text(captions, tokenizers, encoders, store, 100)
    assert isinstance(cached, CachedText) and isinstance(live, LiveText)
    for one, other in zip(cached.rows([2, 0, 3]), live.rows([2, 0, 3]), strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=2e-3)
    encode_text(captions, tokenizers, encoders, TensorCache(tmp_path, "m" * 20), 1e9, reported.append)
    assert reported == [4]  # the second time all was there


# the command

SMALL = [
    "model.hidden=32",
    "model.head_dim=8",
    "model.depths=[1, 1, 1]",
    "model.ffn_ratios=[2, 2, 2]",
    "model.grid=[4, 4]",
    "model.time_features=16",
    "model.widths=[0.5, 1.0]",
    "steps=30",
    "batch=4",
    "warmup=1",
    "rate=0.02",
    "ema=0.5",
    "validate_every=10",
    "precision=float32",
    "data.pixels=6144",
    "data.validation=0.2",
]


def train_on(data: Path, runs: Path, *changes: str) -> int:
    settings = [part for change in (f"data.path={data}", *SMALL, *changes) for part in ("--set", change)]
    return cli.run(["train", "elastic", "--runs", str(runs), "--data", str(runs / "none"), "--json", *settings])


@pytest.mark.parametrize("kind", WRITERS)
def test_the_command_trains_on_every_format(kind, tmp_path, capfd):
    WRITERS[kind](tmp_path / "d", samples(9))
    assert train_on(tmp_path / "d", tmp_path / "runs") == 0
    out = capfd.readouterr()
    result = json.loads(out.out)["stages"][0]
    log = [json.loads(line) for line in (tmp_path / "runs" / "elastic" / "log.jsonl").read_text().splitlines()]
    watched = [row for row in log if "val@1.0" in row]
    assert result["steps"] == 30 and len(watched) == 3
    for name in ("val@0.5", "val@1.0"):
        values = [row[name] for row in watched]
        assert np.isfinite(values).all() and values[-1] < values[0]
    assert "9 pictures in buckets 4x6 tokens" in out.err and "6x4 tokens" in out.err and "0 left out" in out.err
    assert not (tmp_path / "runs" / "none").exists()  # the bundled pictures are not fetched


def test_a_run_resumed_with_the_command_encodes_nothing_and_assembles_with_the_encoders_it_was_trained_with(
    tmp_path, capfd, calls
):
    write_texts(tmp_path / "d", samples(9))
    assert train_on(tmp_path / "d", tmp_path / "runs", "steps=2") == 0 and calls["pictures"] == 9
    assert train_on(tmp_path / "d", tmp_path / "runs", "steps=3") == 0 and calls["pictures"] == 9
    assert json.loads((tmp_path / "runs" / "elastic" / "recipe.json").read_text())["data"]["validation"] == 0.2
    assert cli.run(["train", "assemble", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "made")]) == 0
    from edgegen.model.checkpoint import bundled_folder, load_checkpoint

    made, bundled = load_checkpoint(tmp_path / "made"), load_checkpoint(bundled_folder())
    for part in ("encoder", "decoder", "text_encoder"):
        assert all(torch.equal(made.states[part][name], bundled.states[part][name]) for name in bundled.states[part])
    assert made.config.transformer.hidden == 32
    card = (tmp_path / "made" / "MODEL_CARD.md").read_text()
    assert "`d`" in card and "bundled encoders" in card and "| elastic | 3 |" in card and "lobehub" in card
    assert str(tmp_path) not in card and "$" not in card and "emoji-like" not in card


@pytest.mark.parametrize("fault", ["one", "none", "broken"])
def test_too_few_usable_pictures_stop_the_command_with_one_line(fault, tmp_path, capfd):
    made = samples(1 if fault == "one" else 3)
    write_texts(tmp_path / "d", made)
    for path in (tmp_path / "d").iterdir():
        if fault == "none" and path.suffix == ".txt":
            path.write_text(" ")
        if fault == "broken" and path.suffix == ".png":
            path.write_bytes(path.read_bytes()[:30])
    assert train_on(tmp_path / "d", tmp_path / "runs") == 2
    out = capfd.readouterr()
    message = json.loads(out.out)["error"]["message"]
    assert ("one usable picture" if fault == "one" else "no usable picture") in message
    assert "Traceback" not in out.err and not (tmp_path / "runs" / "elastic").exists()
    if fault != "one":
        assert "left out p00.png: " in out.err and "3 left out: 3 " in out.err
    else:
        assert out.err.strip().endswith("why others were left out.")


def test_a_wrong_data_setting_is_refused(tmp_path, capfd):
    assert train_on(tmp_path / "no", tmp_path / "runs") == 2
    assert "does not exist" in capfd.readouterr().err
    assert train_on(tmp_path, tmp_path / "runs", "data.pth=3") == 2
    assert "Did you mean path?" in capfd.readouterr().err
    assert cli.run(["train", "text", "--set", "data.path=x"]) == 2
    assert "unknown key in text 'data'" in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()
