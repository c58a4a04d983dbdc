"""Figures as people read them: the digits that say something. JSON keeps all of them."""

TINY = 5e-5  # below it four decimals would say 0


def show_figure(value: object) -> str:
    """One figure on a line of its own: 0.8870132209018449 -> "0.887", 297.9 -> "297.9", 1.2e-05; others as they are."""
    if not isinstance(value, float):
        return str(value)
    if value != 0 and abs(value) < TINY:
        return f"{value:.1e}"
    shown = f"{value:.4f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown
