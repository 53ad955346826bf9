"""Every layout a released teacher comes in: how it is told, what wraps it, and which names may be dropped.

A format is one class, and a class is a declaration. A name is dropped only because the format's own list says so;
whatever else is left over fails the strict load. Read from the public repositories; see docs/teachers.md.

What a reader would get wrong: nothing here looks at values before `settled`, so that shapes alone (`reading.Shape`)
tell the sizes of a teacher without torch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from attndistill.core.words import shown
from attndistill.models.teachers import TEACHER_FORMATS
from attndistill.models.teachers.reading import Contents

State = Mapping[str, Any]
Renames = tuple[tuple[str, str], ...]
_HEAD = {"head.": "the projection head"}
_CLASSIFIER = {"head.": "the classifier"}
_MASKED = "the embedding of masked patches"
_MUGS = dict.fromkeys(
    ("relation_blocks.", "instance_head.", "local_group_head.", "group_head."), "a head of Mugs' training"
)
_AVERAGED = ("state_dict_ema", "model_ema", "ema")  # where timm's, DeiT's and others' training keep averaged weights
# torch's own wrappers: compiled, sharded, checkpointed; and, in front of all names, data parallel
_WRAPPED = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_ROTARY_EPS, _ROTARY_TEMPERATURE = 1e-5, 100.0  # DINOv3's
_BF16 = 2**-8  # relative: what DINOv3's stored periods were rounded to
_ROTARY: Renames = (
    (r"ls([12])\.gamma$", r"gamma_\1"),
    (r"mlp\.w1\.", "mlp.fc1_g."),
    (r"mlp\.w2\.", "mlp.fc1_x."),
    (r"mlp\.w3\.", "mlp.fc2."),
)
_TRANSFORMERS: Renames = (
    (r"^(?:vit|dinov2|dinov2_with_registers|dinov3_vit)\.(?=embeddings|encoder|layer|norm)", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.(?:projection\.)?", "patch_embed.proj."),
    (r"^(?:encoder\.|model\.)?layer\.(\d+)\.", r"blocks.\1."),
    (r"^layernorm\.", "norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.q_proj\.", ".attn.query."),
    (r"\.attention\.k_proj\.", ".attn.key."),
    (r"\.attention\.v_proj\.", ".attn.value."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.(?:intermediate\.dense|mlp\.weights_in)\.", ".mlp.fc1."),
    (r"(?<=\d)\.output\.dense\.|\.mlp\.weights_out\.|\.mlp\.down_proj\.", ".mlp.fc2."),
)
_KNOWN = {
    r"(?:^|\.)dist(?:illation)?_token$": "it has a distillation token beside the class token (DeiT's distilled models)",
    r"(?:^|\.)(?:visual\.transformer\.resblocks|visual\.conv1|vision_model\.encoder)\.": "CLIP or SigLIP by OpenAI's "
    "or transformers' names (where timm has the model, save its weights under timm's names)",
    r"relative_position_bias_table$": "a Swin transformer or BEiT (attention with relative positions)",
    r"(?:^|\.)(?:stages\.\d+\.(?:blocks|layers)\.\d+|stages\.\d+\.\d+|encoder\.stages\.\d+)\..*"
    r"(?:dwconv|conv_dw|depthwise_conv|pwconv1)": "a ConvNeXt, which has no class token",
    r"(?:^|\.)layer[1-4]\.\d+\.conv\d\.": "a ResNet, which has no class token",
    r"(?:^|\.)(?:lora_[AB]|base_model\.model)\.": "an adapter (LoRA), without the model it belongs to",
    r"\.(?:qweight|weight_scale|quant_state|absmax)$": "quantised weights",
    r"\._flat_param|(?:^|\.)flat_param": "a shard of a model that FSDP flattened (save its full state dict)",
    r"(?:^|\.)rope\.freqs": "EVA-02 (give its timm name where the names are timm's)",
    r"(?:^|\.)blocks\.\d+\.attn\.(?:wq|gamma)": "Sapiens2",
}
"""Pattern of a tensor's name -> what such a file is; known, and not read."""
_SAVE = "safetensors.torch.save_file"


@dataclass(frozen=True)
class Found:
    """A backbone's weights as a format found them.

    Attributes:
        weights: timm's names -> tensors.
        dropped: name -> why it was left out.
        format: that format's name, "" for weights that came another way.
        half: which of two halves it is, "" where there is one.
        arch: what the file calls its architecture, "" where it says nothing; timm's name in a file of timm's training.
        final_norm: whether the backbone ends with a trained norm of its own.
        heads_follow_width: whether the rule of released models tells the number of heads in this format.
        heads: what the file says of them.
        norm_eps: epsilon of the norms.
        rope_temperature: of rotary positions; None where there are none.
        aside: name -> tensor that is no weight but says how weights are meant.
        notes: what was decided for the user.
    """

    weights: dict[str, Any]
    dropped: dict[str, str]
    format: str = ""
    half: str = ""
    arch: str = ""
    final_norm: bool = True
    heads_follow_width: bool = True
    heads: int | None = None
    norm_eps: float = 1e-6
    rope_temperature: float | None = None
    aside: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Format:
    """A layout, as its attributes say.

    Attributes:
        wrappers: keys under one of which the state dict lies; "" is the outermost mapping, {half} the half's name.
        beside: keys that must be in the outermost mapping.
        own: pattern that one of the names must match.
        never: pattern that none of the names may match.
        halves: whether both halves are always there.
        prefixes: starts of names that are taken off, one after the other.
        renames: patterns of names and their timm names.
        drops: start of a name -> why such names are left out.
        final_norm: as in Found.
        heads_follow_width: as in Found.
        apart: whether registers have no positions while the class token has, as DINOv2 lays them out.
    """

    wrappers: tuple[str, ...] = ("",)
    beside: frozenset[str] = frozenset()
    own = never = ""
    halves = False
    prefixes: tuple[str, ...] = ()
    renames: Renames = ()
    drops: Mapping[str, str] = {}
    final_norm = heads_follow_width = True
    apart = False

    def read(self, contents: Contents, name: str, half: str) -> Found | None:
        """The backbone in it, None where the contents are not laid out that way.

        Raises:
            ValueError: laid out that way, but without the half that is asked for, or with a name twice.
        """
        if not self.beside <= set(contents.tree) or (self.halves and not {"student", "teacher"} & set(contents.tree)):
            return None
        wrapper, given = self._wrapped(contents, half)
        if self.halves and given is None:
            there = [other for other in ("teacher", "student") if state_in(contents.tree.get(other))]
            raise ValueError(f"{contents.path} has no {half} half; it has: {', '.join(there) or 'neither'}")
        state = _unwrapped(given or {}, contents)
        if given is None or not self.is_laid_out(state, contents):
            return None
        starts = tuple(prefix.format(half=half) for prefix in self.prefixes)
        halved = wrapper == half or any("{half}" in prefix and _starts(state, half) for prefix in self.prefixes)
        dropped, kept = self._sorted(state, starts, half if halved else "")
        found = Found(
            self._renamed(kept, contents),
            dropped,
            name,
            half if halved else "",
            final_norm=self.final_norm,
            heads_follow_width=self.heads_follow_width,
            notes=() if self.halves or state.keys() == given.keys() else ("named without torch's wrappers around it",),
        )
        return self.described(found, contents)

    def is_laid_out(self, state: State, contents: Contents) -> bool:
        """Whether the names are this format's."""
        own = not self.own or any(re.search(self.own, name) for name in state)
        return own and not (self.never and any(re.search(self.never, name) for name in state))

    def described(self, found: Found, contents: Contents) -> Found:
        """With what else the file says of its model."""
        return found

    def settled(self, found: Found) -> Found:
        """With values put where timm has them."""
        weights = dict(found.weights)
        _join(weights)
        if self.apart and {"reg_token", "pos_embed", "cls_token"} <= set(weights):
            weights["cls_token"] = weights["cls_token"] + weights["pos_embed"][:, :1]
            weights["pos_embed"] = weights["pos_embed"][:, 1:]
        return replace(found, weights=weights)

    def _wrapped(self, contents: Contents, half: str) -> tuple[str, dict[str, Any] | None]:
        for wrapper in (name.format(half=half) for name in self.wrappers):
            if (state := state_in(contents.tree.get(wrapper) if wrapper else contents.tree)) is not None:
                return wrapper, state
        return "", None

    def _sorted(self, state: State, starts: tuple[str, ...], half: str) -> tuple[dict[str, str], dict[str, list[Any]]]:
        """What is dropped and why; the others' names without their prefixes -> their names and tensors."""
        dropped: dict[str, str] = {}
        kept: dict[str, Any] = {}
        other = {"teacher": "student", "student": "teacher"}.get(half)
        for name, tensor in state.items():
            plain = name
            for start in starts:
                plain = plain.removeprefix(start)
            why = next((why for start, why in self.drops.items() if plain.startswith(start)), None)
            if why is None and other and name.startswith(f"{other}."):
                why = f"the {other} half"
            if why is not None:
                dropped[shown(plain)] = why
            else:
                kept.setdefault(plain, []).append(tensor)
        return dropped, kept

    def _renamed(self, kept: Mapping[str, list[Any]], contents: Contents) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for plain, tensors in kept.items():
            name = plain
            for pattern, timm_name in self.renames:
                name = re.sub(pattern, timm_name, name)
            if name in found or len(tensors) > 1:
                raise ValueError(
                    f"{contents.path} has {shown(name)} twice, with and without a prefix: which one is meant?"
                )
            found[name] = tensors[0]
        return found


class _Full(Format):
    """A full checkpoint: student and teacher; some old files lack the prefixes of data parallel and multi-crop."""

    wrappers = ("{half}",)
    halves = True
    prefixes = ("module.", "backbone.")


@TEACHER_FORMATS.register("dino_full")
class DinoFull(_Full):
    """DINO's full checkpoint: student, teacher, optimizer, dino_loss."""

    beside = frozenset({"dino_loss"})
    drops: Mapping[str, str] = _HEAD


@TEACHER_FORMATS.register("ibot_full")
class IbotFull(_Full):
    """iBOT's full checkpoint: as DINO's, with ibot_loss."""

    beside = frozenset({"ibot_loss"})
    drops: Mapping[str, str] = _HEAD | {"masked_embed": _MASKED}


@TEACHER_FORMATS.register("mugs_full")
class MugsFull(_Full):
    """Mugs' full checkpoint: student and teacher, each with a memory."""

    beside = frozenset({"student_mem", "teacher_mem"})
    drops: Mapping[str, str] = _MUGS | _HEAD


@TEACHER_FORMATS.register("dinov2")
class Dinov2(Format):
    """Meta's DINOv2: released (flat), or a checkpoint of its training; blocks numbered plainly or in chunks."""

    wrappers = ("{half}", "model", "")
    own = r"mask_token$|register_tokens$|blocks\.\d+\.\d+\."
    never = r"storage_tokens|rope_embed|decoder_"
    prefixes = ("{half}.", "module.", "backbone.")
    renames = (
        (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
        (r"^register_tokens$", "reg_token"),
        (r"mlp\.w12\.", "mlp.fc1."),
        (r"mlp\.w3\.", "mlp.fc2."),
    )
    drops: Mapping[str, str] = {
        "mask_token": _MASKED,
        "dino_head.": "the projection head",
        "ibot_head.": "the projection head",
    }
    apart = True

    def is_laid_out(self, state: State, contents: Contents) -> bool:
        """Under `model`, where masked autoencoders lie too, a half's name comes first."""
        return super().is_laid_out(state, contents) and ("model" not in contents.tree or _starts(state, "teacher"))


@TEACHER_FORMATS.register("dinov3")
class Dinov3(Format):
    """Meta's DINOv3: rotary positions, storage tokens; released (flat), or a checkpoint of its training."""

    wrappers = Dinov2.wrappers
    own = r"storage_tokens$|rope_embed\.periods$"
    prefixes = Dinov2.prefixes
    renames = ((r"^storage_tokens$", "reg_token"), (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."), *_ROTARY)
    drops: Mapping[str, str] = {**Dinov2.drops, "local_cls_norm.": "the norm of local crops in training"}

    def described(self, found: Found, contents: Contents) -> Found:
        """Heads by the number of periods, one for four channels of a head."""
        weights = dict(found.weights)
        aside = {name: weights.pop(name) for name in found.weights if re.search(r"(?:periods|bias_mask)$", name)}
        heads, periods, width = None, aside.get("rope_embed.periods"), weights.get("cls_token")
        if periods is not None and width is not None and len(periods.shape) == 1:
            heads = width.shape[-1] // (4 * periods.shape[0]) if periods.shape[0] else None
        dropped = found.dropped | dict.fromkeys(map(shown, aside), "what tells how the others are meant")
        return replace(
            found,
            weights=weights,
            aside=aside,
            dropped=dropped,
            heads=heads,
            norm_eps=_ROTARY_EPS,
            rope_temperature=_ROTARY_TEMPERATURE,
        )

    def settled(self, found: Found) -> Found:
        """Biases of queries and values, those of keys being masked; positions by the periods."""
        found = super().settled(found)
        weights = dict(found.weights)
        for name in [name for name in weights if name.endswith(".attn.qkv.bias")]:
            mask = found.aside.get(f"{name}_mask")
            query, key, value = (weights.pop(name) if mask is None else weights.pop(name) * mask).chunk(3)
            _without_key_bias(name, key)
            attention = name.removesuffix("qkv.bias")
            weights |= {f"{attention}q_bias": query, f"{attention}v_bias": value}
        periods = found.aside.get("rope_embed.periods")
        temperature = _ROTARY_TEMPERATURE if periods is None else _temperature(periods)
        return replace(found, weights=weights, rope_temperature=temperature)


@TEACHER_FORMATS.register("transformers")
class Transformers(Format):
    """Hugging Face transformers' ViT (DINO's too), ViT-MAE, DINOv2 (with registers) and DINOv3."""

    own = r"(?:^|\.)embeddings\.cls_token$"
    renames = _TRANSFORMERS
    drops: Mapping[str, str] = {
        "pooler.": "the pooler, never trained without labels",
        "vit.pooler.": "the pooler, never trained without labels",
        "classifier.": "the classifier",
        "decoder.": "the decoder of masked patches",
        **{f"{start}embeddings.mask_token": _MASKED for start in ("", "vit.", "dinov2.", "dinov2_with_registers.")},
    }
    apart = True

    def described(self, found: Found, contents: Contents) -> Found:
        """By config.json, else by transformers' defaults."""
        rotary = any(".attention.q_proj." in name for name in contents.tree)
        config = contents.config
        weights = _rotary_names(found.weights) if rotary else found.weights
        eps = _ROTARY_EPS if rotary else 1e-6 if any(".norm1." in name for name in contents.tree) else 1e-12
        temperature = _ROTARY_TEMPERATURE if rotary else None
        found = replace(found, weights=weights, norm_eps=eps, rope_temperature=temperature)
        if config is None:
            said = f"epsilon of the norms {eps:g}, transformers' default: give the folder where config.json says"
            return replace(found, notes=(*found.notes, said))
        _check_config(contents)
        return replace(
            found,
            heads=config.num_attention_heads,
            norm_eps=config.layer_norm_eps or eps,
            rope_temperature=(config.rope_theta or temperature) if rotary else None,
        )

    def settled(self, found: Found) -> Found:
        """Queries, keys and values in one; with rotary positions their biases stay apart."""
        weights = dict(found.weights)
        if found.rope_temperature is not None:
            for name in [name for name in weights if name.endswith(".attn.query.bias")]:
                attention = name.removesuffix("query.bias")
                _without_key_bias(name, weights.pop(f"{attention}key.bias", None))
                weights[f"{attention}q_bias"] = weights.pop(name)
                if f"{attention}value.bias" in weights:
                    weights[f"{attention}v_bias"] = weights.pop(f"{attention}value.bias")
        return super().settled(replace(found, weights=weights))


@TEACHER_FORMATS.register("supervised")
class Supervised(Format):
    """A classifier trained by DeiT's code (`model`) or timm's (`state_dict`, beside it `arch`): one linear head."""

    wrappers = ("model", "state_dict")
    drops: Mapping[str, str] = _CLASSIFIER

    def is_laid_out(self, state: State, contents: Contents) -> bool:
        """One linear layer on the class token; the heads of self-supervised training have layers of their own names."""
        return "head.weight" in state and len(state["head.weight"].shape) == 2

    def described(self, found: Found, contents: Contents) -> Found:
        """By its `arch`."""
        _refuse_averaged(found.weights, contents)
        return replace(found, arch=str(contents.tree.get("arch") or ""))


@TEACHER_FORMATS.register("attndistill_official")
class Official(Format):
    """A student of the paper's published code: its P and both norms are left out.

    The `norm` in it has the teacher's width and belongs after P; `student_norm` was never trained. So the backbone ends
    without a norm. Its heads must be given: ViT-T, 192 wide, has 3 in some rows of Table 7 and 6 in others.
    """

    wrappers = ("model",)
    own = r"^proj\."
    drops: Mapping[str, str] = {"proj.": "P", "norm.": "P's last norm", "student_norm.": "a norm never trained"}
    final_norm = heads_follow_width = False


@TEACHER_FORMATS.register("mae")
class Mae(Format):
    """Masked autoencoders: `model`, with or without the decoder."""

    wrappers = ("model",)
    drops: Mapping[str, str] = dict.fromkeys(("decoder_", "mask_token"), "the masked autoencoder's decoder")


@TEACHER_FORMATS.register("mugs_backbone")
class MugsBackbone(Format):
    """Mugs' backbone: `state_dict`, with names of Mugs' own heads or none."""

    wrappers = ("state_dict",)
    drops: Mapping[str, str] = _MUGS


@TEACHER_FORMATS.register("ibot")
class Ibot(Format):
    """iBOT's checkpoint_teacher.pth: `state_dict` with head or masked_embed."""

    wrappers = ("state_dict",)
    drops: Mapping[str, str] = IbotFull.drops


@TEACHER_FORMATS.register("dino_backbone")
class DinoBackbone(Format):
    """DINO's backbone alone: a flat state dict in a torch file; nothing is dropped."""

    def is_laid_out(self, state: State, contents: Contents) -> bool:
        """Whatever torch saved flat."""
        return not contents.safetensors


@TEACHER_FORMATS.register("timm")
class Timm(Format):
    """timm's names, flat, with or without a classifier."""

    drops: Mapping[str, str] = _CLASSIFIER | {"fc_norm.": "the norm of pooled patches"}

    def described(self, found: Found, contents: Contents) -> Found:
        """Refused where patches were averaged."""
        _refuse_averaged({**found.weights, **found.dropped}, contents)
        return found


def with_weights(contents: Contents, which: str) -> tuple[Contents, tuple[str, ...]]:
    """The contents with the weights that are asked for, and a note where there are others beside.

    Raises:
        ValueError: averaged weights are asked for, and there are none.
    """
    tree = contents.tree
    there = {key: state for key in _AVERAGED if (state := _averaged(tree.get(key))) is not None}
    if not there:
        if which == "ema":
            raise ValueError(f"{contents.path} holds no averaged weights (none of {', '.join(_AVERAGED)})")
        return contents, ()
    key, state = next(iter(there.items()))
    if which != "ema":
        return contents, (f"averaged weights lie beside these (under {key}): `weights: ema` takes them",)
    place = "state_dict" if key == "state_dict_ema" or ("model" not in tree and "state_dict" in tree) else "model"
    return replace(contents, tree={**tree, place: state}), (f"the averaged weights (under {key}), as asked for",)


def state_in(value: Any) -> dict[str, Any] | None:
    """The value if it is a state dict: names and tensors, at least one."""
    if not isinstance(value, dict) or not value:
        return None
    named = all(isinstance(name, str) and hasattr(tensor, "shape") for name, tensor in value.items())
    return value if named else None


def known_kind(contents: Contents) -> str | None:
    """What files with such names are, of the kinds that are known and not read."""
    names = [name for state in _states(contents).values() for name in state]
    for pattern, what in _KNOWN.items():
        if any(re.search(pattern, name) for name in names):
            return f"{'' if what.startswith('it ') else 'it looks like '}{what}: not read"
    return None


def where_it_lies(contents: Contents) -> str | None:
    """Where a vision transformer's names are in a file that no format reads, and what to do."""
    states, first = _states(contents), "patch_embed.proj.weight"
    names = {name for state in states.values() for name in state if name.endswith(f".{first}")}
    prefixes = [shown(name.removesuffix(first)) for name in sorted(names)]
    if prefixes:
        several = f" (and {', '.join(prefixes[1:4])})" if len(prefixes) > 1 else ""
        start = f"its names start with {prefixes[0]!r}{several}, which no known format has: keep those names without it"
        return f"{start}, and save them with {_SAVE}"
    place = next((key for key, state in states.items() if key and first in state), None)
    return place and f"a transformer's names lie under {shown(place)!r}: keep that part alone, and save it with {_SAVE}"


def _states(contents: Contents) -> dict[str, dict[str, Any]]:
    """The state dicts of a file, by the name of what wraps them; "" for none."""
    places = {"": contents.tree, **contents.tree}
    return {key: state for key, value in places.items() if (state := state_in(value)) is not None}


def _unwrapped(state: dict[str, Any], contents: Contents) -> dict[str, Any]:
    """Without the names of torch's own wrappers, which change nothing of a model."""
    parallel = all(name.startswith("module.") for name in state)
    plain = {_WRAPPED.sub("", name.removeprefix("module.") if parallel else name): state[name] for name in state}
    if len(plain) < len(state):
        raise ValueError(f"{contents.path} has names that differ by torch's wrappers alone: which ones are meant?")
    return plain


def _starts(state: State, half: str) -> bool:
    return any(name.startswith(f"{half}.") for name in state)


def _averaged(value: Any) -> dict[str, Any] | None:
    inner = value if isinstance(value, dict) else {}
    return next(
        (state for part in (value, *map(inner.get, ("module", "model", "state_dict"))) if (state := state_in(part))),
        None,
    )


def _rotary_names(weights: State) -> dict[str, Any]:
    """DINOv3's, of transformers: an MLP is gated where it has a gate."""
    gated = any(".mlp.gate_proj." in name for name in weights)
    renames = (
        (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
        (r"\.mlp\.up_proj\.", ".mlp.fc1_x." if gated else ".mlp.fc1."),
        *_ROTARY,
    )
    renamed = {}
    for given, tensor in weights.items():
        name = given
        for pattern, timm_name in renames:
            name = re.sub(pattern, timm_name, name)
        renamed[name] = tensor
    return renamed


def _join(weights: dict[str, Any]) -> None:
    """Queries', keys' and values' projections as timm's one, where all three are there and fit."""
    for name in [name for name in weights if ".attn.query." in name]:
        three = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if set(three) <= set(weights) and len({tuple(weights[part].shape[1:]) for part in three}) == 1:
            import torch

            weights[name.replace(".query.", ".qkv.")] = torch.cat([weights.pop(part) for part in three])


def _without_key_bias(name: str, key: Any) -> None:
    if key is not None and bool((key != 0).any()):
        raise ValueError(f"{shown(name)}: keys have a bias, which DINOv3 masks: it is no DINOv3")


def _temperature(periods: Any) -> float:
    """The temperature whose powers the periods are: exactly, or DINOv3's as rounded to bfloat16."""
    import torch

    given, count = periods.double(), len(periods)
    exponents = torch.arange(count, dtype=torch.float64) / count
    if torch.allclose(given, _ROTARY_TEMPERATURE**exponents, rtol=_BF16, atol=0):
        return _ROTARY_TEMPERATURE
    temperature = round(float(given[-1]) ** (count / (count - 1)), 3) if count > 1 else 0.0
    if temperature <= 0 or not torch.allclose(given, temperature**exponents, rtol=1e-5, atol=0):
        raise ValueError("its rotary periods are not the powers of one temperature: not read")
    return temperature


def _check_config(contents: Contents) -> None:
    """config.json against the names and shapes beside it."""
    config = contents.config
    assert config is not None
    tree = contents.tree
    width = next((tensor.shape[-1] for name, tensor in tree.items() if name.endswith("embeddings.cls_token")), None)
    depth = len({found[1] for name in tree if (found := re.search(r"layer\.(\d+)\.", name)) and "decoder" not in name})
    gate = next((gate for gate in ("gate_proj", "weights_in") if any(f".mlp.{gate}." in name for name in tree)), "")
    # DINOv2's gated MLP uses silu whatever is said
    allowed = {"gate_proj": ("silu", "swish"), "weights_in": ("silu", "swish", "gelu")}.get(gate, ("gelu",))
    for what, said, holds in (("hidden_size", config.hidden_size, width), ("layers", config.num_hidden_layers, depth)):
        if said not in (None, holds):
            raise ValueError(f"{contents.path}: config.json says {what} {said}, its tensors have {holds}")
    if config.hidden_act not in (None, *allowed):
        raise ValueError(
            f"{contents.path}: config.json says hidden_act {shown(config.hidden_act)!r}; allowed: {allowed[0]}"
        )


def _refuse_averaged(state: State, contents: Contents) -> None:
    if {"cls_token", "fc_norm.weight"} <= set(state) and "norm.weight" not in state:
        averaged = "its last norm follows the average over patches (fc_norm): its class token was never trained"
        raise ValueError(f"{contents.path}: {averaged}")
