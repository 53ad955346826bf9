"""What was loaded, from where, and what was left out: printed, logged, and kept beside the weights."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class LoadReport:
    """The account of one strict load.

    Attributes:
        file: name of the file or timm model.
        format: the layout that was recognised.
        half: "teacher" or "student" where a file holds both.
        sha256: digest of the file; of names and tensors where timm fetched them.
        tensors: loaded.
        dropped: name -> why.
        embed_dim: width D.
        depth: blocks.
        num_heads: heads per block.
        patch_size: pixels.
        image_size: pixels.
        tokens: class token, registers and patches.
        registers: register tokens.
        position: "sincos", "learnable" or "rotary".
        parameters: of the backbone.
        notes: whatever was decided for the user.
    """

    file: str
    format: str
    half: str
    sha256: str
    tensors: int
    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int
    image_size: int
    tokens: int
    registers: int
    position: str
    parameters: int
    dropped: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "notes": list(self.notes)}

    def lines(self) -> list[str]:
        """For people."""
        half = f", {self.half} half" if self.half else ""
        registers = f", {self.registers} registers" if self.registers else ""
        fetched = " (of names and tensors: timm fetched them)" if self.format == "timm hub" else ""
        text = [
            f"teacher   {self.file} ({self.format}{half})",
            f"sha256    {self.sha256}{fetched}",
            f"model     width {self.embed_dim}, depth {self.depth}, {self.num_heads} heads, patch {self.patch_size}, "
            f"{self.image_size} px, {self.tokens} tokens{registers}, {self.position} positions",
            f"loaded    {self.tensors} tensors, {self.parameters:,} parameters, strictly",
        ]
        for why, count in Counter(self.dropped.values()).items():
            first = next(name for name, reason in self.dropped.items() if reason == why)
            text.append(f"dropped   {count} tensors, {first} and so on: {why}")
        return text + [f"note      {note}" for note in self.notes]
