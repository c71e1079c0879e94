"""The Python of docs/conditions.md runs as it stands, from top to bottom."""

from blocks import run_page


def test_the_page_runs(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    names = run_page("docs/conditions.md", call)
    drawn = {name: [image.tobytes() for image in names[name]] for name in ("pictures", "more", "nearer")}
    assert [len(images) for images in drawn.values()] == [4, 6, 4]
    assert drawn["pictures"] != drawn["nearer"]
    again = names["unitgain"].sample_images(
        names["network"],
        [4],
        conditions=names["told_data"].conditions_of(names["torch"].tensor([5]).numpy()),
        label=int(names["told_data"].labels[5]),
        settings=names["settings"],
    )
    assert again[0].tobytes() == drawn["more"][4]  # seed 4 gets the second of three rows, number 5, and its class
    assert set(names["ink"]) == {"right", "wrong", "none"}
    assert all(0 < one < 1 for one in names["ink"].values())
