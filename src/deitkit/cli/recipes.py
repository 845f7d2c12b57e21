"""deitkit recipes"""

from __future__ import annotations


def recipes(name: str | None = None) -> int:
    """List the recipes that recipe= takes, or print one whole.

    deitkit recipes deit_tiny

    Parameters
    ----------
    name
        Print this one: what it reproduces, its source, and every setting.
    """
    from deitkit.config.recipes import list_recipes, recipe_text

    if name is not None:
        print(recipe_text(name), end="")
        return 0
    width = max(map(len, list_recipes()))
    for listed in list_recipes():
        first_line = recipe_text(listed).partition("\n")[0]
        print(f"{listed:{width}}  {first_line.removeprefix('#').strip()}")
    return 0
