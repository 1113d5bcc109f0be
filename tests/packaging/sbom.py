"""What no tool can see about the package is added to its SBOM: `python -m tests.packaging.sbom DOCUMENT SDIST`.

The document is CycloneDX, of an environment with the package's dependencies and the package as its main component.
That component gets its version, which pyproject.toml leaves to the build, and the hash of the sdist that all wheels
are built from; and Cython becomes one of its parts, since code of its own is compiled into every wheel.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.packaging.project import load


def cython() -> dict[str, Any]:
    """Cython as a component, of the version that pyproject.toml builds with."""
    (version,) = re.findall(r"^Cython==(\S+)$", "\n".join(load("pyproject.toml")["build-system"]["requires"]), re.M)
    return {
        "bom-ref": f"Cython=={version}",
        "type": "library",
        "name": "Cython",
        "version": version,
        "purl": f"pkg:pypi/cython@{version}",
        "description": "Compiled into the extension modules; not installed with them",
        "licenses": [{"license": {"id": "Apache-2.0", "acknowledgement": "declared"}}],
    }


def complete(document: dict[str, Any], sdist: Path) -> None:
    """Add version, hash and Cython, in place."""
    component = document["metadata"]["component"]
    component["version"] = sdist.name.removesuffix(".tar.gz").rpartition("-")[2]
    component["purl"] = f"pkg:pypi/{component['name']}@{component['version']}"
    component["hashes"] = [{"alg": "SHA-256", "content": hashlib.sha256(sdist.read_bytes()).hexdigest()}]
    part = cython()
    document["components"].append(part)
    (edges,) = (entry for entry in document["dependencies"] if entry["ref"] == component["bom-ref"])
    edges["dependsOn"] = sorted([*edges.get("dependsOn", []), part["bom-ref"]])
    document["dependencies"].append({"ref": part["bom-ref"]})


def main(document: Path, sdist: Path) -> None:
    """Complete the document. Raises `SystemExit` when that does not keep the schema of CycloneDX."""
    # They come with the dependency group `sbom`, which the tests of `complete` do without.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    content = json.loads(document.read_text(encoding="utf-8"))
    complete(content, sdist)
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    error = JsonStrictValidator(SchemaVersion.from_version(content["specVersion"])).validate_str(text)
    if error:
        raise SystemExit(f"not CycloneDX {content['specVersion']}: {error}")
    document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
