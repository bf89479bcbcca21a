"""Figures, times and addresses as a person reads them, and texts that are no orders to a terminal."""

from mprelay.core.texts import CONTROL, valid


def address(ip: str | None, port: int) -> str:
    """Show an address and a port."""
    return f"{'?' if ip is None else f'[{ip}]' if ':' in ip else ip}:{port}"


def size(count: float) -> str:
    """Show bytes with a unit: 999 B, 1.5 KiB, 20 MiB."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if count < 1024:  # noqa: PLR2004 - that is the unit
            break
        count, unit = count / 1024, larger
    return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"  # noqa: PLR2004


def span(seconds: float) -> str:
    """Show a time: 7s, 3:07, 1:02:03, 4d 05:00."""
    whole = int(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02}:{minutes:02}"
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest}s"


def escaped(text: str) -> str:
    """Show a text from outside so that it neither commands the terminal nor turns the line round."""
    return valid(text).translate(CONTROL)
