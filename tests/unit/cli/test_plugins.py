def test_lists_every_plugin(cli):
    data = cli("plugins", "--json").json
    assert {p["name"] for p in data["plugins"]} >= {"cutlass", "flashinfer", "torch", "triton"}
    torch = next(p for p in data["plugins"] if p["name"] == "torch")
    assert set(torch) >= {"name", "status", "distribution", "version", "api", "kernels", "reasons"}
    assert torch["kernels"] > 0


def test_shows_the_kernels_of_one(cli):
    data = cli("plugins", "show", "torch", "--json").json
    ids = [k["id"] for k in data["kernel_specs"]]
    assert "torch/linear_reference" in ids
    assert all(k["capability"]["arch"] for k in data["kernel_specs"])
    text = cli("plugins", "show", "torch").out
    assert "torch/linear_reference  (linear)" in text


def test_refuses_an_unknown_plugin_with_the_nearest(cli):
    answer = cli("plugins", "show", "torhc")
    assert answer.code == 2
    assert 'did you mean "torch"?' in answer.err


def test_refuses_an_unknown_action(cli):
    answer = cli("plugins", "shwo")
    assert answer.code == 2
    assert 'did you mean "show"?' in answer.err


def test_shows_a_disabled_plugin(cli, policy):
    file = policy("[plugins.torch]\nenabled = false")
    answer = cli("plugins", "--plugins", file)
    assert answer.code == 0
    assert "disabled" in answer.out
    assert "line 3" in answer.out
