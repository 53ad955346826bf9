"""Vision transformers by name (Table 7), and what their sizes come to, without building them."""

from collections.abc import Mapping
from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "vit_tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3, "mlp_ratio": 4.0},
    "vit_tiny_8_layers": {"embed_dim": 192, "depth": 8, "num_heads": 3, "mlp_ratio": 4.0},
    "vit_tiny_6_heads": {"embed_dim": 192, "depth": 12, "num_heads": 6, "mlp_ratio": 4.0},
    "vit_small": {"embed_dim": 384, "depth": 12, "num_heads": 6, "mlp_ratio": 4.0},
    "vit_base": {"embed_dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4.0},
}
_SECTIONS = ("teacher", "student")


def with_presets(layer: Mapping[str, Any]) -> dict[str, Any]:
    """A layer of settings with `preset: vit_tiny` replaced by what it stands for; sizes beside it win.

    Raises:
        ValueError: an unknown preset.
    """
    expanded = dict(layer)
    for section in _SECTIONS:
        given = layer.get(section)
        if isinstance(given, Mapping) and "preset" in given:
            name = given["preset"]
            if not isinstance(name, str) or name not in PRESETS:
                raise ValueError(f"{section}.preset: {name!r}; allowed: {', '.join(PRESETS)}")
            expanded[section] = PRESETS[name] | {key: value for key, value in given.items() if key != "preset"}
    return expanded


def count_tokens(image_size: int, patch_size: int) -> int:
    """The class token and one token a patch."""
    return 1 + (image_size // patch_size) ** 2


def count_parameters(
    image_size: int, *, embed_dim: int, depth: int, num_heads: int, patch_size: int, mlp_ratio: float, position: str
) -> int:
    """Parameters of a ViT without a head, positions included whether they are trained or not (as Table 7 counts)."""
    del num_heads, position  # neither changes the count
    hidden = int(embed_dim * mlp_ratio)
    attention = 4 * embed_dim * embed_dim + 4 * embed_dim
    mlp = 2 * embed_dim * hidden + hidden + embed_dim
    norms = 4 * embed_dim
    embedding = (3 * patch_size**2 + 1) * embed_dim + (1 + count_tokens(image_size, patch_size)) * embed_dim
    return embedding + depth * (attention + mlp + norms) + 2 * embed_dim


def describe(image_size: int, sizes: Mapping[str, Any]) -> str:
    """One line: what a ViT of these sizes comes to."""
    count, tokens = count_parameters(image_size, **sizes), count_tokens(image_size, sizes["patch_size"])
    return (
        f"width {sizes['embed_dim']}, depth {sizes['depth']}, {sizes['num_heads']} heads, patch {sizes['patch_size']}, "
        f"{image_size} px: {tokens} tokens, {count:,} parameters ({count / 1e6:.1f} M)"
    )
