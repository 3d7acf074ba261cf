"""How messages show values: never at length."""

import reprlib

SHOWN_CHARACTERS = 50  # of a value
SHOWN_VALUES = 3  # of many that are wrong

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = SHOWN_CHARACTERS


def shown(value):
    """The value for a message, cut where it is long."""
    try:
        text = _REPR.repr(value)
    except ValueError:  # Python does not print integers of more than 4300 digits
        text = f"a very large {type(value).__name__}"
    if "\n" in text:
        text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."


def place(name, index):
    """For example "class_lists[1][0]"."""
    return name + "".join(f"[{number}]" for number in index)


def few(texts, total):
    """The first of ``total`` texts, and how many more there are."""
    return ", ".join(texts) + (f" and {total - len(texts)} more" if total > len(texts) else "")


def few_values(found, total, suffix=""):
    """The same for values, each with its name and index: "target[1][0] = 5, target[2][1] = 7 and 9 more"."""
    return few([f"{place(name, index)} = {shown(value)}{suffix}" for name, index, value in found], total)
