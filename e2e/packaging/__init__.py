"""What users install: `manifests/install.yaml` and the Helm chart, both rendered from the kustomize source.

`python -m e2e.packaging generate` writes them; `verify` fails when they are out of date or say something else than the
source. There is no second truth: the chart's templates are the rendered objects with expressions at declared places.
"""

from e2e.packaging.guide import blocks
from e2e.packaging.helm import Helm, find_helm
from e2e.packaging.render import render

__all__ = ["Helm", "blocks", "find_helm", "render"]
