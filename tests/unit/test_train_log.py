"""What a run says of its time and speed."""

from unitgain.train.log import TrainProgress, why_slow


def test_a_low_share_of_the_peak_has_a_cause_and_a_remedy():
    busy, narrow = why_slow(0.004, 0.6, 2), why_slow(0.05, 1.9, 2)
    assert "0.4 %" in busy and "0.6 of 2 cores" in busy and "OMP_NUM_THREADS=1" in busy
    assert "other programs" not in narrow and "--microbatch" in narrow


def test_it_is_said_once_and_the_end_has_a_time_of_day(capsys, monkeypatch):
    monkeypatch.setattr("unitgain.train.log.SECONDS_BETWEEN_LINES", -1)
    row = {"loss": 1.0, "lr": 0.01, "images_per_second": 3.0, "peak_share": 0.002, "data_wait_share": 0.0}
    progress = TrainProgress(1000, 0)
    for nimg in (100, 200):
        progress.tick({"nimg": nimg, **row})
    said = capsys.readouterr()
    assert (said.out + said.err).count("of what matrix products reach here") == 1
    assert "ETA" in said.err and ", at " in said.err
