"""The figures of a run as Markdown."""

from typing import Any

_MACHINE = ("processor", "gpu", "memory", "instructions", "cores", "threads", "torch", "cuda", "device")


def page(found: dict[str, Any]) -> str:
    """Everything measured of steps: the machine, then two tables a configuration."""
    parts = [f"# A training step beside the published algorithm\n\n{machine_line(found)}\n"]
    parts += [configuration_tables(one) for one in found["configurations"].values()]
    return "\n".join(parts)


def comparison_page(name: str, found: dict[str, Any]) -> str:
    """Everything measured of another part: the machine, then a table or a list for each thing compared."""
    return "\n".join([f"# {name.capitalize()}\n\n{machine_line(found)}\n", *_sections(found["measured"], "##")])


def machine_line(found: dict[str, Any]) -> str:
    facts = [(name, found["machine"][name]) for name in _MACHINE if found["machine"].get(name)]
    return f"Machine: {'; '.join(f'{name} {_plain(value)}' for name, value in facts)}."


def _sections(measured: dict[str, Any], level: str) -> list[str]:
    """Nested figures: compared ways as a table, single spreads as another, numbers as a list, the rest a level down."""
    compared = {key: value for key, value in measured.items() if isinstance(value, dict) and "a_second" in value}
    spreads = {key: value for key, value in measured.items() if isinstance(value, dict) and "median" in value}
    numbers = {key: value for key, value in measured.items() if not isinstance(value, dict)}
    lines = [f"- {key.replace('_', ' ')}: {_plain(value)}" for key, value in numbers.items()]
    parts = ["\n".join(lines) + "\n"] if lines else []
    if compared:
        rows = [
            f"| {key} | {_seconds(one['seconds']['median'])} | {one['a_second']['median']:.4g} | "
            f"{_ratio(one['ratio'])} |"
            for key, one in compared.items()
        ]
        parts.append("\n".join(["| | time | a second | ratio |", "|---|---|---|---|", *rows]) + "\n")
    if spreads:
        rows = [f"| {key} | {_seconds(one['median'])} | {_seconds(one['upper'])} |" for key, one in spreads.items()]
        parts.append("\n".join(["| | median | upper quartile |", "|---|---|---|", *rows]) + "\n")
    for key, value in measured.items():
        if isinstance(value, dict) and key not in {*compared, *spreads}:
            parts += [f"{level} {key}\n", *_sections(value, f"{level}#")]
    return parts


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def configuration_tables(one: dict[str, Any]) -> str:
    gemm = ", ".join(
        f"{name} {value['median'] / 1e9:.0f} GFLOP/s" for name, value in one["gemm_flops_per_second"].items()
    )
    head = f"## {one['label']}, batch {one['batch_size']}\n\n{one['rounds']} rounds; a large matrix product: {gemm}; "
    head += f"the views of a batch from images in memory: {_seconds(one['data_seconds'])}.\n"
    return "\n".join([head, _speeds(one["variants"]), _phases(one["variants"])])


def _speeds(variants: dict[str, Any]) -> str:
    rows = [
        "| | ratio | by processor time | step | memory of a step | of the reference's | share of matrix product |",
        "|---|---|---|---|---|---|---|",
    ]
    held = variants["reference fp32"]["peak_bytes"]
    for name, value in variants.items():
        cells = [
            name,
            _ratio(value["ratio"]),
            _ratio(value["ratio_of_processor_time"]),
            _seconds(value["seconds"]["median"]),
            f"{value['peak_bytes'] / 1e6:.0f} MB",
            f"{value['peak_bytes'] / held:.2f}",
            f"{100 * value['share_of_gemm']['median']:.0f} %" if "share_of_gemm" in value else "",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _phases(variants: dict[str, Any]) -> str:
    names = list(next(iter(variants.values()))["phase_seconds"])
    rows = [f"| where the time goes | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for name, value in variants.items():
        cells = [_seconds(value["phase_seconds"][phase]) for phase in names]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _ratio(value: dict[str, float]) -> str:
    return f"{value['median']:.2f} ({value['lower']:.2f} to {value['upper']:.2f})"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"
