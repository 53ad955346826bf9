"""The figures of a run as Markdown."""

from typing import Any

_MACHINE = ("processor", "gpu", "instructions", "cores", "threads", "torch", "cuda", "device")


def page(found: dict[str, Any]) -> str:
    """Everything measured: the machine, then two tables a configuration."""
    facts = [(name, found["machine"][name]) for name in _MACHINE if found["machine"].get(name)]
    machine = "; ".join(f"{name} {' '.join(value) if isinstance(value, list) else value}" for name, value in facts)
    parts = [f"# A training step beside the published algorithm\n\nMachine: {machine}.\n"]
    parts += [_configuration(one) for one in found["configurations"].values()]
    return "\n".join(parts)


def _configuration(one: dict[str, Any]) -> str:
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
