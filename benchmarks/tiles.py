"""What the cost rules expect of matrix tiles (AMX): every contraction of the benchmark models, compiled, not run.

    python benchmarks/tiles.py [model ...] [--precision float32-fast bfloat16] [--batch 1] [--layers]

Per distinct contraction: cycles by the rule on tiles, beside the best of the float32 units for the same precision
(Winograd where it applies), and which one is chosen. Totals are of contractions only, one thread.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from ingot import driver
from ingot.codegen.host import target_named
from ingot.codegen.layouts import layout_choices
from ingot.codegen.lower.contraction import CONTRACTIONS
from ingot.codegen.tile_schedule import PARTS
from ingot.ir import dtypes
from ingot.ir.graph import Node
from ingot.passes.manager import PassContext, PassManager
from ingot.passes.pipeline import standard

sys.path.insert(0, str(Path(__file__).parent))

TARGET = target_named("x86-64-amx")
FMA_PER_CYCLE = 32


def contractions(name: str, batch: int) -> list[Node]:
    """The contractions of a model as the layout pass meets them."""
    from models import MODELS

    factory, shape, _ = MODELS[name]
    graph = driver.trace_inference(factory().eval(), [driver.InputSpec((batch, *shape), dtypes.float32)]).graph
    passes = standard()
    before = next(i for i, p in enumerate(passes) if p.name == "assign-layout")
    kernels = driver.Options(target=TARGET).kernels()
    PassManager(passes[:before], verify=False).run(graph, PassContext(TARGET, kernels))
    return [node for node in graph if node.op in CONTRACTIONS]


def products(node: Node) -> int:
    """Multiplications of the direct form."""
    weight = node.inputs[1].type.shape
    depth = 1
    for extent in weight[1:] if node.op == "conv" else (node.inputs[0].shape[-1],):
        depth *= int(extent)
    return int(node.output.type.elements) * depth


def main() -> None:
    from models import MODELS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--precision", nargs="+", default=["float32-fast", "bfloat16"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--layers", action="store_true")
    options = parser.parse_args()
    for name in options.models:
        nodes = contractions(name, options.batch)
        for precision in options.precision:
            exact = chosen = direct = 0.0
            used = 0
            counts = Counter((n.op, str(n.inputs[0].type), str(n.inputs[1].type), str(n.attrs)) for n in nodes)
            for node in nodes:
                key = (node.op, str(node.inputs[0].type), str(node.inputs[1].type), str(node.attrs))
                found = [
                    c
                    for c in layout_choices(node, TARGET, precision)
                    if node.inputs[1].is_constant or not any(x.form for x in c.inputs)
                ]
                cycles = TARGET.clock_ghz * 1e9
                tiles = [c for c in found if c.inputs[1].form in PARTS]
                others = [c for c in found if c not in tiles]
                plain = layout_choices(node, TARGET, "float32")
                exact += plain[0].cost * cycles
                chosen += found[0].cost * cycles
                direct += products(node) / FMA_PER_CYCLE
                used += found[0] in tiles
                if options.layers and counts[key]:
                    shown = f"{tiles[0].cost * cycles / 1e3:9.0f}" if tiles else "        -"
                    print(
                        f"  {counts.pop(key):2d}x {node.op:7s} {node.inputs[0].type!s:28s} {node.inputs[1].type!s:26s}"
                        f" kcycles: FMA peak {products(node) / FMA_PER_CYCLE / 1e3:8.0f}, float32 units"
                        f" {others[0].cost * cycles / 1e3:8.0f} ({others[0].inputs[1].form or 'direct'}), tiles {shown}"
                    )
            print(
                f"{name} batch {options.batch} {precision}: {used} of {len(nodes)} contractions on tiles; Mcycles:"
                f" direct at FMA peak {direct / 1e6:.2f}, float32 {exact / 1e6:.2f}, {precision} {chosen / 1e6:.2f}"
                f" ({exact / max(chosen, 1):.2f}x)",
                flush=True,
            )


if __name__ == "__main__":
    main()
