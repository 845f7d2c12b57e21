"""deitkit recipes"""

from __future__ import annotations


def recipes(name: str | None = None) -> int:
    """List the recipes that recipe= takes, or print one whole.

    deitkit recipes deit_tiny

    Parameters
    ----------
    name
        Print this one: what it reproduces, its source, and every setting, with those of the
        recipe it extends.
    """
    import yaml

    from deitkit.config.recipes import list_recipes, read_recipe, recipe_text

    if name is not None:
        for line in recipe_text(name).splitlines():
            if line.startswith("#"):
                print(line)
        tree: dict[str, dict[str, object]] = {}
        for full, value in read_recipe(name).items():
            section, _, field = full.partition(".")
            tree.setdefault(section, {})[field] = value
        print(yaml.safe_dump(tree, sort_keys=False, default_flow_style=None), end="")
        return 0
    width = max(map(len, list_recipes()))
    for listed in list_recipes():
        first_line = recipe_text(listed).partition("\n")[0]
        print(f"{listed:{width}}  {first_line.removeprefix('#').strip()}")
    return 0
