"""The help says what each verb is for."""

from __future__ import annotations

import inspect

import pytest

from deitkit.cli.main import VERBS, main, verb_function


@pytest.mark.parametrize("words", [(), ("--help",)])
def test_each_verb_stands_in_the_help_with_what_it_does(words, capsys):
    assert main(list(words)) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for verb in VERBS:
        said = inspect.getdoc(verb_function(verb)).splitlines()[0]
        assert f"{verb} {said}" in shown, verb
