"""The sentence that the report's page and a model card begin with: how much of its teacher a student has, at what cost.

    AttnDistill has 96 % of the teacher's k-NN top-1 at 32 % of its parameters and 9 % of its FLOPs, 4.1 times as fast
    (on AMD EPYC, 1 thread, batches of 16).

In two halves: the first is the same on every machine, the second is not.
"""

Pair = tuple[float, float]  # the student's, the teacher's


def share(parameters: Pair, flops: Pair | None, accuracy: tuple[str, Pair] | None, subject: str = "") -> str:
    """The first half. `accuracy` has the figure's title; without a subject, that of a card, the share is said alone."""
    reached, whose = "", "the teacher's"
    if accuracy is not None:
        title, pair = accuracy
        reached, whose = f"{percent(*pair)} of the teacher's {title} at ", "its"
    cost = f"{percent(*parameters)} of {whose} parameters"
    cost += f" and {percent(*flops)} of its FLOPs" if flops else ""
    return f"{subject} has {reached}{cost}" if subject else f"{reached}{cost}"


def pace(images_a_second: Pair, place: str) -> str:
    """The second half."""
    own, teacher = images_a_second
    return f", {own / teacher:.2g} times as fast (on {place})"


def percent(part: float, whole: float) -> str:
    """'32 %'."""
    found = 100 * part / max(whole, 1e-12)
    return f"{found:.0f} %" if found >= 1 else f"{found:.1g} %"
