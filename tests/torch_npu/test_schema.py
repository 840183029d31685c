"""The checker of vendor calls, with planted mistakes; the committed schemas; the CPU reference implementations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pangu_compile.codegen.torch_npu import CHIPS, TABLE, CallError, check_source
from pangu_compile.codegen.torch_npu.schema import SCHEMAS, schemas
from pangu_compile.codegen.torch_npu.support import blocks, reference
from pangu_compile.driver.options import CHIPS as OPTION_CHIPS

SHARED = Path(__file__).resolve().parents[3] / "shared" / "ascend" / "torch_npu_schemas.json"


def function(call: str, parameters: str = "x: Tensor, g: Tensor, n: int, f: float, s: str") -> str:
    return f"def f({parameters}):\n    return {call}\n"


GOOD = (
    "torch.ops.npu.npu_rms_norm(x, g, 1e-5)[0]",
    "torch.ops.npu.npu_rms_norm(input=x, gamma=g)",
    "torch.ops.npu.npu_rms_norm(x.view(n, -1), g[0], n)",
    "torch.ops.npu.npu_swiglu(F.linear(x, g), dim=-1)",
    "torch.ops.npu.npu_moe_gating_top_k(x, x.shape[1], bias=None, norm_type=1)",
    "torch.ops.npu.npu_grouped_matmul([x], [g.transpose(1, 2)], group_list=x, split_item=2)[0]",
    "torch.ops.npu.npu_moe_init_routing_v2(x, g.to(torch.int32), active_expert_range=[0, 4], expert_tokens_num_flag=True)",
)
BAD = (
    ("torch.ops.npu.npu_rms_norm(x, g, eps=1e-5)", "has no argument 'eps'"),
    ("torch.ops.npu.npu_rms_norm(x)", "lacks its argument 'gamma'"),
    ("torch.ops.npu.npu_rms_norm(x, g, 1e-5, 1)", "takes 3 positional arguments, got 4"),
    ("torch.ops.npu.npu_rms_norm(x, g, 1e-5, epsilon=1e-5)", "gets argument 'epsilon' twice"),
    ("torch.ops.npu.npu_rms_norm(x, 1.0)", "argument 'gamma' is Tensor, got float"),
    ("torch.ops.npu.npu_rms_norm(x, g, s)", "argument 'epsilon' is float, got str"),
    ("torch.ops.npu.npu_swiglu(x, 1.0)", "argument 'dim' is int, got float"),
    ("torch.ops.npu.npu_swiglu(x, True)", "argument 'dim' is int, got bool"),
    ("torch.ops.npu.npu_moe_gating_top_k(x, n, g)", "takes 2 positional arguments, got 3"),
    ("torch.ops.npu.npu_grouped_matmul(x, [g])", r"argument 'x' is List\[Tensor\], got Tensor"),
    ("torch.ops.npu.npu_swiglu(unknown(x))", "the type of 'unknown\\(x\\)'.* cannot be told"),
    ("torch.ops.npu.npu_swiglu(y)", "cannot be told"),
    ("torch.ops.npu.npu_swigloo(x)", "is no operator that is known here"),
    ("torch.ops.npu.npu_swiglu.default(x)", "not as a call"),
    ("torch.ops.npu.npu_mhc_sinkhorn(x)", "does not exist on ascend910b .it does on: ascend950"),
    ("torch.ops.npu.npu_fused_causal_conv1d(x, g, x)", "does not exist on ascend910b"),
)  # fmt: skip


@pytest.mark.parametrize("call", GOOD)
def test_calls_that_fit(call: str) -> None:
    assert len(check_source(function(call), "ascend910b")) == 1


@pytest.mark.parametrize("call,message", BAD)
def test_planted_mistakes_are_named(call: str, message: str) -> None:
    with pytest.raises(CallError, match=message) as found:
        check_source(function(call), "ascend910b", file="some.py")
    assert str(found.value).startswith("some.py")


def test_where_a_call_stands() -> None:
    with pytest.raises(CallError, match=r"some.py:2 in f: npu_swiglu"):
        check_source(function("torch.ops.npu.npu_swiglu()"), "ascend950", file="some.py")
    with pytest.raises(CallError, match="outside of a function"):
        check_source("y = torch.ops.npu.npu_swiglu(x)\n", "ascend950")
    assert check_source(function("torch.ops.npu.npu_mhc_sinkhorn(x)"), "ascend950")[0].operator == "npu_mhc_sinkhorn"


def test_a_name_with_two_types_has_none() -> None:
    source = "def f(x: Tensor, n: int):\n    y = x\n    y = n\n    return torch.ops.npu.npu_swiglu(y)\n"
    with pytest.raises(CallError, match="cannot be told"):
        check_source(source, "ascend950")


def test_tables_belong_together() -> None:
    assert set(schemas()) == set(TABLE) == {f.__name__ for f in reference.IMPLEMENTATIONS}
    assert CHIPS == OPTION_CHIPS
    assert all(row.source and row.chips and set(row.chips) <= set(CHIPS) for row in TABLE.values())


@pytest.mark.skipif(not SHARED.is_file(), reason="the project's shared folder is not beside this checkout")
def test_schemas_are_the_vendors() -> None:
    vendor = json.loads(SHARED.read_text())["schemas"]
    own = json.loads(SCHEMAS.read_text())["schemas"]
    assert own == {name: vendor[name] for name in own}


# The reference implementations: they refuse what the documentation does not allow.

reference.register()
NPU = torch.ops.npu


def test_registered_under_the_vendors_schemas() -> None:
    for name, schema in schemas().items():
        assert str(getattr(NPU, name).default._schema) == str(schema)


def test_documented_limits_are_kept() -> None:
    x = torch.randn(3, 8)
    for call in (
        lambda: NPU.npu_rms_norm(x, torch.ones(8, dtype=torch.bfloat16)),
        lambda: NPU.npu_moe_gating_top_k(x[:, :2], 1, norm_type=1),
        lambda: NPU.npu_mhc_pre(x[:, None], x, x, x),
        lambda: NPU.npu_mhc_sinkhorn(torch.randn(2, 3, 3)),
        lambda: NPU.npu_lightning_indexer(x[None, :, None], x[None, :, None], x[None]),
        lambda: NPU.npu_grouped_matmul([x], [torch.randn(1, 8, 4)], group_list=torch.tensor([3]), split_item=2, group_type=0,
                                       group_list_type=1),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="not allowed by the operator's documentation"):
            call()


def test_routing_there_and_back_is_the_sum_over_chosen_experts() -> None:
    torch.manual_seed(0)
    tokens, width, experts, k = 7, 6, 5, 3
    x, index = torch.randn(tokens, width), torch.randint(0, experts, (tokens, k))
    weight, gate_up, down = torch.rand(tokens, k), torch.randn(experts, 8, width), torch.randn(experts, width, 4)
    rows, place, counts, _ = NPU.npu_moe_init_routing_v2(
        x, index.int(), active_num=tokens * k, expert_num=experts, expert_tokens_num_type=1, expert_tokens_num_flag=True,
        active_expert_range=[0, experts],
    )  # fmt: skip
    assert counts.tolist() == torch.bincount(index.flatten(), minlength=experts).tolist()
    assert torch.equal(rows[place.long()].view(tokens, k, width), x[:, None].expand(-1, k, -1))
    groups = {"group_list": counts, "split_item": 2, "group_type": 0, "group_list_type": 1}
    inner = NPU.npu_swiglu(NPU.npu_grouped_matmul([rows], [gate_up.transpose(1, 2)], **groups)[0])
    out = NPU.npu_moe_token_unpermute(NPU.npu_grouped_matmul([inner], [down.transpose(1, 2)], **groups)[0], place, weight)
    torch.testing.assert_close(out, blocks.moe_ffn(x, index, weight, gate_up, down))
