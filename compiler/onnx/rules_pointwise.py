"""Import rules: elementwise operators and activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pangu_compile.ir import Value

from .dtypes import from_onnx
from .operands import Attrs, Importing, Operand, rule


def _unary(op: str) -> Callable[..., Value]:
    return lambda im, attrs, xs: im.build(op, im.value(xs[0]))


for _name, _op in {
    "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Sigmoid": "sigmoid", "Sin": "sin", "Cos": "cos", "Tanh": "tanh",
    "Reciprocal": "reciprocal", "Erf": "erf", "Round": "round", "Floor": "floor", "Neg": "neg", "Abs": "abs", "Relu": "relu",
    "Not": "logical_not",
}.items():  # fmt: skip
    rule(_name)(_unary(_op))


def _pair(im: Importing, xs: Sequence[Any]) -> list[Value]:
    """Both operands as values of one dtype: a known one takes the other's."""
    typed = next((x.type.dtype for x in xs if isinstance(x, Value)), None)
    return [im.value(x, typed if isinstance(x, np.ndarray) and x.dtype == object else None) for x in xs]


def _binary(op: str) -> Callable[..., Value]:
    def apply(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
        a, b = _pair(im, xs)
        out = im.build(op, a, b)
        if (op in ("add", "mul", "minimum") and {a, b} <= im.nonnegative) or (op == "maximum" and {a, b} & im.nonnegative):
            im.nonnegative.add(out)
        return out

    return apply


for _name, _op in {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Equal": "eq", "Less": "lt", "LessOrEqual": "le", "Greater": "gt",
    "GreaterOrEqual": "ge", "And": "logical_and", "Or": "logical_or", "Xor": "ne",
}.items():  # fmt: skip
    rule(_name)(_binary(_op))


def _variadic(op: str) -> Callable[..., Value]:
    def apply(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
        total = im.value(xs[0])
        for x in xs[1:]:
            total = _binary(op)(im, attrs, [total, x])
        return total

    return apply


for _name, _op in {"Max": "maximum", "Min": "minimum", "Sum": "add"}.items():
    rule(_name)(_variadic(_op))


@rule("Mean")
def _mean(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    total = _variadic("add")(im, attrs, xs)
    return im.build("mul", total, im.build.constant(1.0 / len(xs), total.type.dtype))


@rule("Div")
def _div(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    """Integers are divided towards zero."""
    a, b = _pair(im, xs)
    if a.type.dtype.is_float:
        return im.build("div", a, b)
    quotient = im.build("floor_divide", im.build("abs", a), im.build("abs", b))
    zero = im.build.constant(0, a.type.dtype)
    opposite = im.build("ne", im.build("lt", a, zero), im.build("lt", b, zero))
    return im.build("where", opposite, im.build("neg", quotient), quotient)


@rule("Mod")
def _mod(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    if attrs.get("fmod", 0):
        raise im.fail("fmod=1 is not covered")
    out = im.build("remainder", *_pair(im, xs))
    if isinstance(xs[1], np.ndarray) and xs[1].dtype != object and bool((xs[1] > 0).all()):
        im.nonnegative.add(out)
    return out


@rule("Pow")
def _pow(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    base = im.value(xs[0])
    if isinstance(xs[1], np.ndarray) and xs[1].size == 1 and xs[1].dtype != object and float(xs[1].reshape(())) == 2.0:
        return im.build("mul", base, base)
    if not base.type.dtype.is_float:
        raise im.fail(f"power of {base.type.dtype.value} is not covered")
    return im.build("pow", base, im.value(xs[1], base.type.dtype))


@rule("Where")
def _where(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    a, b = _pair(im, xs[1:])
    out = im.build("where", im.value(xs[0]), a, b)
    if {a, b} <= im.nonnegative:
        im.nonnegative.add(out)
    return out


@rule("Cast")
def _cast(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    x = im.value(xs[0])
    out = im.build.cast(x, from_onnx(attrs["to"], "Cast"))
    if x in im.nonnegative:
        im.nonnegative.add(out)
    return out


@rule("CastLike")
def _cast_like(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    return im.value(xs[0], im.value(xs[1]).type.dtype)


@rule("Identity", "Dropout")
def _identity(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Operand:
    return xs[0]


@rule("Clip")
def _clip(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
    x, low, high = [*xs, None, None][:3]
    x = im.value(x)
    x = x if low is None else im.build("maximum", x, im.value(low))
    return x if high is None else im.build("minimum", x, im.value(high))


class _Maths:
    """Formulas of activations: numbers become constants of the operand's dtype."""

    def __init__(self, im: Importing, x: Value):
        self.im, self.x = im, x

    def __call__(self, op: str, *xs: Value | float) -> Value:
        dtype = self.x.type.dtype
        return self.im.build(op, *(x if isinstance(x, Value) else self.im.build.constant(x, dtype) for x in xs))

    def above(self, positive: Value, negative: Value) -> Value:
        return self.im.build("where", self("gt", self.x, 0.0), positive, negative)


Formula = Callable[[_Maths, Value, Attrs], Value]


def _formula(name: str) -> Callable[[Formula], Formula]:
    def register(fn: Formula) -> Formula:
        def apply(im: Importing, attrs: Attrs, xs: Sequence[Any]) -> Value:
            x = im.value(xs[0])
            if not x.type.dtype.is_float:
                raise im.fail(f"operand of type {x.type.dtype.value}")
            return fn(_Maths(im, x), x, attrs)

        rule(name)(apply)
        return fn

    return register


@_formula("Ceil")
def _ceil(m: _Maths, x: Value, attrs: Attrs) -> Value:
    return m("neg", m("floor", m("neg", x)))


@_formula("Softplus")
def _softplus(m: _Maths, x: Value, attrs: Attrs) -> Value:
    return m("add", m("relu", x), m("log", m("add", m("exp", m("neg", m("abs", x))), 1.0)))


@_formula("LeakyRelu")
def _leaky_relu(m: _Maths, x: Value, attrs: Attrs) -> Value:
    return m.above(x, m("mul", x, attrs.get("alpha", 0.01)))


@_formula("Elu")
def _elu(m: _Maths, x: Value, attrs: Attrs) -> Value:
    return m.above(x, m("mul", m("sub", m("exp", m("minimum", x, 0.0)), 1.0), attrs.get("alpha", 1.0)))


@_formula("HardSigmoid")
def _hard_sigmoid(m: _Maths, x: Value, attrs: Attrs) -> Value:
    line = m("add", m("mul", x, attrs.get("alpha", 0.2)), attrs.get("beta", 0.5))
    return m("minimum", m("maximum", line, 0.0), 1.0)


@_formula("HardSwish")
def _hard_swish(m: _Maths, x: Value, attrs: Attrs) -> Value:
    return m("mul", x, _hard_sigmoid(m, x, {"alpha": 1 / 6, "beta": 0.5}))


@_formula("Swish")
def _swish(m: _Maths, x: Value, attrs: Attrs) -> Value:
    return m("mul", x, m("sigmoid", m("mul", x, attrs.get("alpha", 1.0))))


@_formula("Gelu")
def _gelu(m: _Maths, x: Value, attrs: Attrs) -> Value:
    if attrs.get("approximate", "none") == "tanh":
        cube = m("mul", m("mul", x, x), x)
        gate = m("tanh", m("mul", m("add", x, m("mul", cube, 0.044715)), math.sqrt(2 / math.pi)))
    else:
        gate = m("erf", m("mul", x, math.sqrt(0.5)))
    return m("mul", m("mul", x, 0.5), m("add", gate, 1.0))


@_formula("Mish")
def _mish(m: _Maths, x: Value, attrs: Attrs) -> Value:
    return m("mul", x, m("tanh", _softplus(m, x, attrs)))
