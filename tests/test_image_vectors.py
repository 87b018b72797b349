"""`vislib.media.image_vectors`: models of the CLIP family and the embedded encoder, picture by
picture.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.test_selection import begin, encoded, names, picture, select_images, selected
from vislib.media import image_vectors as vectors
from vislib.media import pixels
from vislib.media.image_vectors import Encoder
from vislib.runs import InputError, short_hash, tables


def test_bad_pictures_cost_themselves_alone(tmp_path, monkeypatch):
    pictures = {f"{n}.png": encoded(picture("bars", n)) for n in range(3)}
    pictures |= {"gone.png": b"", "point.png": encoded(Image.new("RGB", (1, 1), "red"))}
    pictures |= {
        "narrow.png": encoded(picture("disc", 5).crop((0, 0, 99, 200))),
        "cut.png": encoded(picture("disc", 6)),
    }
    run = begin(tmp_path, pictures, monkeypatch)
    file = run.table("images").parent / "files" / short_hash(pictures["cut.png"])
    file.write_bytes(pictures["cut.png"][:400])
    (file.parent / short_hash(pictures["2.png"])).unlink()
    select_images(run)
    name = names(pictures)
    dropped = {
        name[row["id"]]: (row["reason"], row["detail"])
        for row in tables.read_rows(run.data / "dropped")
    }
    assert {key: reason for key, (reason, _) in dropped.items()} == {
        "gone.png": "image_failed",
        "point.png": "too_small",
        "narrow.png": "too_small",
        "cut.png": "embedding_failed",
        "2.png": "embedding_failed",
    }
    assert (dropped["gone.png"][1], dropped["narrow.png"][1]) == ("not_found", "99 x 200")
    assert dropped["cut.png"][1].startswith(("truncated", "broken"))
    assert "No such file" in dropped["2.png"][1]
    steps = [
        run.metrics[f"images_{step}"]
        for step in ("distinct", "after_size", "after_hash", "embedded", "selected")
    ]
    assert steps == [6, 4, 4, 2, 2]
    run.finish()


def test_blank_pictures_and_points_are_clustered_too(tmp_path, monkeypatch):
    shades = {
        f"{n}.png": encoded(Image.new("RGB", (n + 1, 2 * n + 1), (7 * n,) * 3)) for n in range(20)
    }
    found = selected(tmp_path / "all", shades, monkeypatch, min_side=1, clusters=50)
    assert len(found["samples"]) == 20
    assert all(
        np.isfinite(row["vector"]).all() and row["distance"] < 1e-3 for row in found["embeddings"]
    )
    found = selected(tmp_path / "hash", shades, monkeypatch, min_side=1, hash_distance=0)
    assert found["dropped for"]["near_duplicate"] >= 15  # a blank picture's hash knows no shade
    same = {f"{n}.png": encoded(Image.new("RGB", (300, 200 + n), "white")) for n in range(40)}
    assert len(selected(tmp_path / "white", same, monkeypatch, epsilon=0.01)["samples"]) == 1


def test_an_interrupted_embedding_goes_on_at_the_last_batches(tmp_path, monkeypatch):
    paths = [tmp_path / f"{n}.png" for n in range(10)]
    for n, path in enumerate(paths):
        path.write_bytes(encoded(picture("field", n)) if n != 4 else b"nothing")

    class Counting(Encoder):
        seen = 0

        def __call__(self, prepared):
            if self.seen == fail_at:
                raise KeyboardInterrupt
            self.seen += len(prepared)
            return super().__call__(prepared)

    def embed(folder: str) -> tuple[np.ndarray, dict[int, str]]:
        options = {"folder": tmp_path / folder, "batch_size": 2, "workers": 2}
        return vectors.embed_images(
            [p.stem for p in paths], [str(p) for p in paths], encoder=encoder, **options
        )

    monkeypatch.setattr(vectors, "_SAVED_AFTER", 4)
    fail_at = -1
    encoder = Counting("efficientnet-lite0", device="cpu")
    whole, failures = embed("whole")
    assert (len(whole), list(failures)) == (9, [4])
    assert failures[4].startswith("not_an_image")
    encoder.seen, fail_at = 0, 5
    with pytest.raises(KeyboardInterrupt):
        embed("killed")
    encoder.seen, fail_at = 0, -1
    resumed, again = embed("killed")
    assert encoder.seen == 9 - 4
    assert again == failures
    np.testing.assert_array_equal(resumed, whole)


def tiny(folder: Path, family: str) -> str:
    """A model of that family with chance weights and its image processor, saved to a folder."""
    import torch
    import transformers as tf

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    vision, text = {**sizes, "patch_size": 8}, {**sizes, "vocab_size": 50}
    if family == "siglip2":
        config = tf.Siglip2Config(text_config=text, vision_config={**vision, "num_patches": 16})
        model, processor = (
            tf.Siglip2Model(config),
            tf.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16),
        )
    elif family == "siglip":
        config = tf.SiglipConfig(text_config=text, vision_config={**vision, "image_size": 32})
        model, processor = (
            tf.SiglipModel(config),
            tf.SiglipImageProcessorPil(size={"height": 32, "width": 32}),
        )
    else:
        config = tf.CLIPConfig(
            text_config=text, vision_config={**vision, "image_size": 32}, projection_dim=12
        )
        processor = tf.CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
        model = tf.CLIPModel(config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("family", "dimension"), [("clip", 12), ("siglip", 16), ("siglip2", 16)])
def test_a_clip_family_model_embeds_and_fails_on_one_picture_alone(
    family, dimension, tmp_path, monkeypatch
):
    folder = tiny(tmp_path / family, family)
    pictures = {f"{n}.png": encoded(picture("disc", n)) for n in range(6)}
    pictures |= {
        "point.png": encoded(Image.new("RGB", (1, 1), "red")),
        "line.png": encoded(Image.new("RGB", (3, 400))),
    }
    original = Encoder.__call__

    def failing(self, prepared):
        if any(float(one["pixel_values"].sum()) == poison for one in prepared):
            raise RuntimeError("cannot bear this one")
        return original(self, prepared)

    found = selected(
        tmp_path / "whole", pictures, monkeypatch, embedding_model=folder, min_side=1, device="cpu"
    )
    assert len(found["embeddings"]) == 8, found["dropped"]
    lengths = [np.linalg.norm(row["vector"]) for row in found["embeddings"]]
    assert lengths == pytest.approx([1] * 8, abs=1e-5)
    assert {len(row["vector"]) for row in found["embeddings"]} == {dimension}
    (tmp_path / "one.png").write_bytes(pictures["3.png"])
    prepared = Encoder(folder, device="cpu").prepare(pixels.read_image(tmp_path / "one.png"))
    poison = float(prepared["pixel_values"].sum())
    monkeypatch.setattr(Encoder, "__call__", failing)
    found = selected(
        tmp_path / "one", pictures, monkeypatch, embedding_model=folder, min_side=1, device="cpu"
    )
    assert [(row["reason"], row["detail"]) for row in found["dropped"]] == [
        ("embedding_failed", "cannot bear this one")
    ]


def test_a_model_without_pooled_image_features_is_refused(tmp_path):
    import transformers as tf

    folder = tmp_path / "vit"
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = tf.ViTConfig(**sizes, image_size=32, patch_size=8)
    tf.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    tf.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    with pytest.raises(InputError, match=r"embedding_model is .*lacks 2 weights, such as pooler"):
        Encoder(str(folder), device="cpu")
