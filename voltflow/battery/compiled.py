"""Derives the two fast forms of the kernel from its source: a loop in plain floats, and numpy over many packs.

Both come from the one text of `voltflow.battery.kernel.step`: its calls are inlined, `s.soc` becomes a local variable,
so that no attribute is looked up and no call made in the loop. In numpy form `if` becomes a mask: what is assigned
under it takes effect where the mask is true, and nothing is computed where it is true nowhere. Written out by hand,
the three forms would drift apart; an abstraction over "float or array" costs a Python call per operation, three times
the time. `source("numpy")` shows what comes out.
"""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any, Final, Literal

import numpy as np

from voltflow.battery import kernel, kernel_session, kernel_slow, ops, tables
from voltflow.battery.features import FEATURES
from voltflow.battery.ops import GAIN_RC, GAINS, INF, NAN, gain_rc_of, gains_of
from voltflow.battery.records import Pack, Row, State

Form = Literal["float", "numpy"]
STATE: Final = tuple(f.name for f in fields(State))
INPUTS: Final = tuple(f.name for f in fields(Row))
PACK: Final = tuple(f.name for f in fields(Pack))
ESTIMATES: Final = ("s_soc", "s_p00", "w_r0_ohm", "w_residual_v")
"""What every message gives beside the state."""
SESSION: Final = ("start_ms", "end_ms", "soc_start_pct", "soc_end_pct", "charge_ah", "capacity_est_ah", "temp_avg_c",
                  "current_avg_a")  # fmt: skip
EMITTED: Final = {model: tuple(f.name for f in features) for model, features in FEATURES.items()} | {
    "session": SESSION
}
"""Names of each kind's values, in the order of the columns."""
_RECORDS: Final = ("s", "x", "p", "w")
_TABLES: Final = ("OCV_V", "SOC_AT_V", "ARRHENIUS")
_PARTS: Final = {name: f for module in (kernel, kernel_session, kernel_slow) for name, f in vars(module).items()
                 if inspect.isfunction(f) and f.__module__ == module.__name__}  # fmt: skip
_NUMBERS: Final = {
    name: value
    for module in (tables, kernel_session, kernel_slow, kernel)
    for name, value in vars(module).items()
    if isinstance(value, float) and value == value and abs(value) != INF  # noqa: PLR0124
}


class KernelError(Exception):
    """The kernel's source uses what cannot be derived; the message names the line."""


class _Names(ast.NodeTransformer):
    """`s.soc` -> `s_soc`, constants by value, a function's own names made unlike others'."""

    def __init__(self, function: str) -> None:
        self.function = function

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """One of the four records' fields."""
        if isinstance(node.value, ast.Name) and node.value.id in _RECORDS:
            return ast.Name(f"{node.value.id}_{node.attr}", node.ctx)
        raise KernelError(f"{self.function}: {ast.unparse(node)}: only attributes of s, x, p and w are known")

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """A constant, a table, an operation, or a local name."""
        if node.id in _NUMBERS:
            return ast.Constant(_NUMBERS[node.id])
        if node.id in _RECORDS or node.id in _TABLES or node.id in ops.__all__:
            return node
        return ast.Name(f"{self.function}_{node.id}", node.ctx)


@cache
def _body(name: str) -> tuple[ast.stmt, ...]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(_PARTS[name]))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    return tuple(_inline(name, statement) for statement in tree.body[1:])


def _inline(function: str, node: ast.stmt) -> ast.stmt:
    """A statement with what it calls put in its place; a called part becomes `if True:` with the part's body."""
    if isinstance(node, ast.If):
        test = _Names(function).visit(copy.deepcopy(node.test))
        return ast.If(
            test, [_inline(function, n) for n in node.body], [_inline(function, n) for n in node.orelse]
        )
    if (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
    ):
        called = node.value.func.id
        if called in _PARTS:
            return ast.If(ast.Constant(True), list(_body(called)), [])
    renamed = _Names(function).visit(copy.deepcopy(node))
    assert isinstance(renamed, ast.stmt)
    return renamed


def _flat(body: list[ast.stmt]) -> list[ast.stmt]:
    """Without the `if True:` of inlined parts."""
    flat: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Constant):
            flat += _flat(node.body)
        elif isinstance(node, ast.If):
            flat.append(ast.If(node.test, _flat(node.body), _flat(node.orelse)))
        else:
            flat.append(node)
    return flat


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _emission(call: ast.Call) -> tuple[str, list[ast.expr]]:
    """Kind and values of an `emit`, checked against the names that the kind has and put into their order."""
    kind = call.args[1]
    assert isinstance(kind, ast.Constant)
    assert isinstance(kind.value, str)
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    expected = EMITTED[kind.value]
    if set(given) != set(expected):
        raise KernelError(
            f"emit {kind.value!r}: {sorted(set(expected) ^ {str(k) for k in given})} do not agree"
        )
    return kind.value, [given[name] for name in expected]


class _Floats(ast.NodeTransformer):
    """Operations of one float each, without calls where possible."""

    def __init__(self) -> None:
        self.temporaries = 0

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        """`emit` appends a tuple."""
        assert isinstance(node.value, ast.Call)
        kind, values = _emission(node.value)
        values = [self.visit(value) for value in values]
        row = ast.Tuple([ast.Name("row", ast.Load()), *values], ast.Load())
        return ast.Expr(ast.Call(_expression(f"emit_{kind}.append"), [row], []))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """known, least, most, index, gains inlined; the rest stays a call."""
        self.generic_visit(node)
        assert isinstance(node.func, ast.Name)
        name, args = node.func.id, node.args
        if name == "known":
            return ast.Compare(args[0], [ast.Eq()], [args[0]])
        if name in ("least", "most"):
            return self._limited(args[0], args[1], ast.Lt() if name == "least" else ast.Gt())
        if name in ("gain_rc", "gains"):
            return ast.Subscript(ast.Name(name, ast.Load()), args[0], ast.Load())
        return node

    def _limited(self, value: ast.expr, limit: ast.expr, operator: ast.cmpop) -> ast.expr:
        if isinstance(value, ast.Name):
            return ast.IfExp(ast.Compare(value, [operator], [limit]), value, limit)
        self.temporaries += 1
        name = f"t{self.temporaries}"
        named = ast.NamedExpr(ast.Name(name, ast.Store()), value)
        return ast.IfExp(ast.Compare(named, [operator], [limit]), ast.Name(name, ast.Load()), limit)


class _Arrays(ast.NodeTransformer):
    """Expressions over arrays."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Operations by their numpy names."""
        self.generic_visit(node)
        assert isinstance(node.func, ast.Name)
        if node.func.id == "known":
            return ast.Compare(node.args[0], [ast.Eq()], [node.args[0]])
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        """`a if c else b` -> where(c, a, b): both sides are computed."""
        self.generic_visit(node)
        return ast.Call(_expression("where"), [node.test, node.body, node.orelse], [])

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        """`and`, `or` of masks."""
        self.generic_visit(node)
        joined, operator = node.values[0], ast.BitAnd() if isinstance(node.op, ast.And) else ast.BitOr()
        for value in node.values[1:]:
            joined = ast.BinOp(joined, operator, value)
        return joined

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """`not` of a mask."""
        self.generic_visit(node)
        return (
            ast.Call(_expression("logical_not"), [node.operand], []) if isinstance(node.op, ast.Not) else node
        )

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """`a < b < c` -> (a < b) & (b < c)."""
        self.generic_visit(node)
        sides = [node.left, *node.comparators]
        pairs: list[ast.expr] = [
            ast.Compare(left, [operator], [right])
            for left, operator, right in zip(sides, node.ops, sides[1:], strict=False)
        ]
        return pairs[0] if len(pairs) == 1 else ast.BinOp(pairs[0], ast.BitAnd(), pairs[1])


class _Masks:
    """Statements over arrays: `if` becomes a mask, an assignment under it takes effect where the mask is true."""

    def __init__(self, given: set[str]) -> None:
        self.masks = 0
        self.defined: dict[str, str] = dict.fromkeys(given, "")

    def block(self, body: list[ast.stmt], mask: str) -> list[ast.stmt]:
        """The statements under one mask ("" = every row). What is first assigned here is not known outside."""
        before, out = dict(self.defined), list[ast.stmt]()
        for node in body:
            out += self._if(node, mask) if isinstance(node, ast.If) else self._plain(node, mask)
        if mask:
            self.defined = before
        return out

    def _if(self, node: ast.If, mask: str) -> list[ast.stmt]:
        self.masks += 1
        test, name = f"c{self.masks}", f"m{self.masks}"
        out = ast.parse(f"{test} = 0\n{name} = {test}{f' & {mask}' if mask else ''}").body
        assert isinstance(out[0], ast.Assign)
        out[0].value = _Arrays().visit(node.test)
        out.append(ast.If(_expression(f"any_of({name})"), self.block(node.body, name), []))
        if node.orelse:
            other = f"{name}_not"
            out += ast.parse(f"{other} = logical_not({test}){f' & {mask}' if mask else ''}").body
            out.append(ast.If(_expression(f"any_of({other})"), self.block(node.orelse, other), []))
        return out

    def _plain(self, node: ast.stmt, mask: str) -> list[ast.stmt]:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            kind, values = _emission(node.value)
            row = ast.Tuple([_Arrays().visit(value) for value in values], ast.Load())
            return [
                ast.Expr(
                    ast.Call(_expression("emit"), [ast.Constant(kind), ast.Name(mask, ast.Load()), row], [])
                )
            ]
        if isinstance(node, ast.AugAssign):
            assert isinstance(node.target, ast.Name)
            read = ast.Name(node.target.id, ast.Load())
            node = ast.Assign([node.target], ast.BinOp(read, node.op, node.value))
        if not isinstance(node, ast.Assign):
            raise KernelError(f"{ast.unparse(node)}: only assignments, if, emit and calls of parts are known")
        return self._assign(node.targets[0], _Arrays().visit(node.value), mask)

    def _assign(self, target: ast.expr, value: ast.expr, mask: str) -> list[ast.stmt]:
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        for name in names:
            assert isinstance(name, ast.Name)
            known_under = self.defined.setdefault(name.id, mask)
            if known_under != mask:
                old = ast.Name(name.id, ast.Load())
                value = ast.Call(_expression("where"), [ast.Name(mask, ast.Load()), value, old], [])
        return [ast.Assign([target], value)]


_FLOAT_FRAME: Final = """
def run(state, pack, rows, inputs, estimates, late, {emits}, gain_rc, gains, {tables}):
    ({state}) = state
    ({pack}) = pack
    for row, ({inputs}) in zip(rows, inputs):
        if x_ts_ms <= s_last_ms:
            late.append(row)
            continue
        BODY
        estimates.append((row, {estimates}))
    return [{state}]
"""
_NUMPY_FRAME: Final = """
def run(state, pack, inputs, emit, out, estimates):
    ({state}) = state
    ({pack}) = pack
    ({inputs}) = inputs
    BODY
"""


def _tree(form: Form) -> ast.Module:
    body = _flat([copy.deepcopy(node) for node in _body("step")])
    names = {
        "state": ", ".join(f"s_{n}" for n in STATE),
        "pack": ", ".join(f"p_{n}" for n in PACK),
        "inputs": ", ".join(f"x_{n}" for n in INPUTS),
        "estimates": ", ".join(ESTIMATES),
        "emits": ", ".join(f"emit_{kind}" for kind in EMITTED),
        "tables": ", ".join(_TABLES),
    }
    frame = ast.parse((_FLOAT_FRAME if form == "float" else _NUMPY_FRAME).format(**names))
    function = frame.body[0]
    assert isinstance(function, ast.FunctionDef)
    if form == "float":
        floats = _Floats()
        loop = function.body[2]
        assert isinstance(loop, ast.For)
        loop.body[1:2] = [floats.visit(node) for node in body]
    else:
        given = {name.strip() for key in ("state", "pack", "inputs") for name in names[key].split(",")}
        stores = [f"out[{i}] = s_{name}" for i, name in enumerate(STATE)]
        stores += [f"estimates[{i}] = {name}" for i, name in enumerate(ESTIMATES)]
        function.body[3:] = _Masks(given).block(body, "") + ast.parse("\n".join(stores)).body
    return ast.fix_missing_locations(frame)


def source(form: Form) -> str:
    """The derived form as text, to read or to profile."""
    return ast.unparse(_tree(form))


def _numpy_namespace() -> dict[str, Any]:
    return {
        "NAN": NAN, "INF": INF, "where": np.where, "least": np.fmin, "most": np.fmax, "sqrt": np.sqrt,
        "log10": np.log10, "logical_not": np.logical_not, "any_of": np.count_nonzero, "gain_rc": gain_rc_of, "gains": gains_of,
        "index": lambda place: place.astype(np.intp), **{name: np.array(getattr(tables, name)) for name in _TABLES},
    }  # fmt: skip


def _float_namespace() -> dict[str, Any]:
    return {"NAN": NAN, "INF": INF, "sqrt": ops.sqrt, "log10": ops.log10, "index": int}


FLOAT_TABLES: Final = (GAIN_RC, GAINS, *(getattr(tables, name) for name in _TABLES))
"""The last arguments of the float form: as arguments they are local names in its loop."""


@cache
def compiled(form: Form) -> Callable[..., Any]:
    """The derived function; its arguments are those of the frame above."""
    namespace = _float_namespace() if form == "float" else _numpy_namespace()
    text = source(form)
    exec(compile(text, f"<{form} form of voltflow.battery.kernel>", "exec"), namespace)  # noqa: S102 our own source
    function: Callable[..., Any] = namespace["run"]
    return function
