"""The rules of the package's imports: downwards only, folder by folder, without cycles; and their picture is true."""

from __future__ import annotations

from tests.architecture import FLOORS, PICTURE, draw, edges, folder_of, imports

FLOOR_OF = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def test_every_folder_has_a_floor() -> None:
    assert {folder_of(module) for module in imports()} <= set(FLOOR_OF)


def test_folders_import_only_downwards() -> None:
    assert {edge for edge in edges() if FLOOR_OF[edge[0]] >= FLOOR_OF[edge[1]]} == set()


def test_the_layers_do_not_import_each_other() -> None:
    layers = {"core", "memory", "pubsub"}
    assert not [edge for edge in edges() if set(edge) <= layers]


def test_hot_imports_nothing_of_the_package_but_itself() -> None:
    assert {end for start, end in edges() if start == "hot"} == set()


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = imports()
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])


def test_the_picture_is_drawn_from_the_imports() -> None:
    assert PICTURE.read_text() == draw(), "python -m tests.architecture draws it again"
