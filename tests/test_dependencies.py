"""Dependencies point one way: a module imports only from its own layer or one before it."""

import ast
from pathlib import Path

import kdiga

ROOT = Path(kdiga.__file__).parent
LAYERS = [
    {"errors"},
    {"types", "options", "folder"},
    {"losses"},
    {"inner", "bounds"},
    {"objectives", "attacks", "data", "models", "optim", "stats"},
    {"measures"},
    {"checkpoint", "evaluate", "feed"},
    {"health"},
    {"train"},
    {"recipe", "report"},
    {"workers", "pool", "methods"},
    {"distill", "compare"},
    {"counting", "measured", "measure"},
    {"ranking"},
    {"compare_methods"},
    {"demo", "contents", "cite", "progress"},
    {"cli"},
]
LEVEL = {name: i for i, layer in enumerate(LAYERS) for name in layer}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "kdiga":
            found |= {a.name for a in node.names if not a.name.startswith("__")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kdiga."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("kdiga.")}
    return found


def test_no_module_imports_from_a_later_layer() -> None:
    wrong = []
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if name != "__init__":
            wrong += [f"{path.relative_to(ROOT)} imports {other}" for other in imports(path) if LEVEL[other] > LEVEL[name]]
    assert not wrong


def test_the_command_line_starts_without_torch() -> None:
    import subprocess
    import sys

    code = "import sys, kdiga.cli; kdiga.cli.parser(); print([m for m in ('torch', 'numpy', 'rich') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
