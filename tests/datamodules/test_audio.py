import numpy as np
import pytest
import soundfile
import torch
from torchaudio.functional import resample

from huscf.datamodules import (
    AudioFolderDataModule,
    LogMel,
    NaturalIdPartitioner,
    SpokenDigitsDataModule,
    write_recording,
)
from huscf.errors import DataError, HuscfError


def make_tone(hertz, seconds=0.5, sample_rate=8000):
    times = np.arange(int(seconds * sample_rate)) / sample_rate
    return np.sin(2 * np.pi * hertz * times, dtype=np.float32) * np.float32(0.5)


def save_tone(path, hertz=500, seconds=0.5, sample_rate=8000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, make_tone(hertz, seconds, sample_rate), sample_rate)


def make_vowels(log_mel, count=3):
    """Harmonics of rising pitch that fade in and out, in a little noise, like a spoken vowel."""
    time = torch.arange(log_mel.num_samples) / log_mel.sample_rate
    pitch = torch.linspace(100, 180, count).view(-1, 1) * (1 + 0.2 * time)
    voice = sum(torch.sin(2 * torch.pi * k * pitch * time) / k for k in range(1, 20))
    noise = torch.randn(count, len(time), generator=torch.Generator().manual_seed(0))
    return 0.3 * voice * torch.sin(torch.pi * time / time[-1]) + 0.005 * noise


def decibels(log_mel, difference):
    return float(difference.float().abs().mean()) * log_mel.range_db / 255


@pytest.mark.parametrize(
    "log_mel",
    [LogMel(), LogMel(size=64), LogMel(16000, 1.0, 64), LogMel(48000, 1.0, 32, 60.0)],
    ids=str,
)
def test_inverse_gives_sound_of_nearly_the_same_spectrogram(log_mel):
    samples = log_mel(make_vowels(log_mel))
    waves = log_mel.invert(samples)
    assert samples.shape == (3, 1, log_mel.size, log_mel.size) and samples.dtype == torch.uint8
    assert waves.shape == (3, log_mel.num_samples) and waves.abs().max() <= 1
    assert decibels(log_mel, log_mel(waves).int() - samples.int()) < 3


def test_a_full_scale_sine_is_near_the_top_of_the_range():
    log_mel = LogMel()
    time = torch.arange(log_mel.num_samples) / 8000
    loud = log_mel(torch.sin(2 * torch.pi * 1000 * time).unsqueeze(0))
    quiet = log_mel(0.1 * torch.sin(2 * torch.pi * 1000 * time).unsqueeze(0))
    assert 240 <= loud.max() <= 255
    assert abs(int(loud.max()) - int(quiet.max()) - 20 * 255 / 80) <= 2


def test_silence_inverts_to_silence():
    log_mel = LogMel()
    samples = log_mel(torch.zeros(1, log_mel.num_samples))
    assert samples.max() == 0 and log_mel.invert(samples).abs().max() == 0


def test_pitch_and_time_have_their_places():
    log_mel = LogMel()
    wave = log_mel.fit_wave(torch.from_numpy(make_tone(300, 0.3)), 8000)
    picture = log_mel(wave.unsqueeze(0))[0, 0]
    assert picture[:, 3].argmax() > log_mel.size * 2 // 3
    assert picture[:, -1].max() < picture[:, 3].max() - 100


def test_short_recordings_end_in_silence_and_long_ones_keep_the_loudest_stretch():
    log_mel = LogMel(normalize_peak=False)
    short = log_mel.fit_wave(torch.ones(100), 8000)
    assert short[:100].eq(1).all() and short[100:].eq(0).all()
    long = torch.zeros(20000)
    long[9000:10000] = 0.5
    assert log_mel.fit_wave(long, 8000).sum() == 500


def test_recordings_of_another_rate_are_resampled():
    log_mel = LogMel()
    own = log_mel.fit_wave(torch.from_numpy(make_tone(440)), 8000)
    other = log_mel.fit_wave(torch.from_numpy(make_tone(440, sample_rate=44100)), 44100)
    assert own.shape == other.shape and (own - other)[200:3000].abs().mean() < 0.02


def test_rates_without_a_common_divisor_are_resampled_as_torchaudio_would():
    wave = torch.from_numpy(make_tone(440, 0.1, 11127))
    ours = LogMel(normalize_peak=False, duration_s=0.64).fit_wave(wave, 11127)[:800]
    reference = resample(wave, 11127, 8000)[:800]
    assert (ours - reference)[50:750].abs().max() < 0.01


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": 4},
        {"range_db": 0},
        {"range_db": float("nan")},
        {"range_db": float("inf")},
        {"duration_s": 0.01},
        {"duration_s": float("inf")},
        # Shorter than half a spectrum, which is mirrored at its ends.
        {"duration_s": 0.03, "size": 8},
    ],
)
def test_senseless_spectrograms_are_refused(arguments):
    with pytest.raises(HuscfError):
        LogMel(**arguments)


def test_fsdd_layout_has_its_split_and_speakers(tmp_path):
    folder = tmp_path / "free-spoken-digit-dataset" / "recordings"
    for digit in range(10):
        for speaker in ("anna_b", "carl"):
            for index in range(8):
                save_tone(folder / f"{digit}_{speaker}_{index}.wav", 200 + 100 * digit, 0.1)
    data = SpokenDigitsDataModule(
        root=str(tmp_path), partitioner=NaturalIdPartitioner(), clients_per_domain=2
    )
    domain = data.domains["fsdd"]
    assert (len(domain.train_labels), len(domain.test_labels)) == (60, 100)
    assert domain.class_names[3] == "three" and data.sample_shape.image_size == 32
    assert [e["keys"] for e in data.make_manifest()["clients"]] == [["anna_b"], ["carl"]]


def test_audiomnist_and_speech_commands_layouts(tmp_path):
    for speaker in ("01", "02"):
        for digit in range(10):
            for repetition in (3, 7, 8):
                path = f"AudioMNIST/data/{speaker}/{digit}_{speaker}_{repetition}.wav"
                save_tone(tmp_path / path, 300, 0.1, 48000)
    commands = tmp_path / "SpeechCommands" / "speech_commands_v0.02"
    for word in ("zero", "one", "cat"):
        for name in ("a1_nohash_0", "a1_nohash_1", "b2_nohash_0", "c3_nohash_0"):
            save_tone(commands / word / f"{name}.wav", 300, 1.0, 16000)
    (commands / "testing_list.txt").write_text("zero/b2_nohash_0.wav\none/b2_nohash_0.wav\n")
    (commands / "validation_list.txt").write_text("zero/c3_nohash_0.wav\none/c3_nohash_0.wav\n")
    names = ["audiomnist", "speech_commands"]
    words = ["zero", "one"]
    data = SpokenDigitsDataModule(names, words, root=str(tmp_path), clients_per_domain=2)
    sizes = [(len(d.train_labels), len(d.test_labels)) for d in data.domains.values()]
    assert sizes == [(40, 20), (4, 2)]
    assert set(data.domains["speech_commands"].keys) == {"a1"}
    assert data.domains["speech_commands"].class_names == ("zero", "one")
    with pytest.raises(DataError, match=r"8 x class folder without files .*/two"):
        _ = SpokenDigitsDataModule(["speech_commands"], root=str(tmp_path)).domains
    assert set(data.domains["audiomnist"].keys) == {"01", "02"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fsdd", "fsdd: no recordings in .*recordings: .*HUSCF_DATA"),
        ("audiomnist", "audiomnist: no recordings in .*AudioMNIST"),
        ("speech_commands", "no file .*testing_list.txt"),
    ],
)
def test_missing_recordings_are_named(tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        _ = SpokenDigitsDataModule([name], root=str(tmp_path)).domains


def make_words(folder):
    for number in range(10):
        save_tone(folder / "low" / f"{number}.wav", 200)
        save_tone(folder / "high" / f"{number}.wav", 2000)


def damage_recordings(folder):
    save_tone(folder / "low" / "rate.wav", sample_rate=16000)
    soundfile.write(folder / "low" / "empty.wav", np.zeros(0, np.float32), 8000)
    soundfile.write(folder / "low" / "silent.wav", np.zeros(800, np.float32), 8000)
    # A dead microphone: the last bit flickers, 90 dB below full scale, around any offset.
    flicker = np.random.default_rng(0).integers(-1, 2, 800) + 8000
    soundfile.write(folder / "low" / "dead.wav", flicker.astype(np.int16), 8000)
    save_tone(folder / "low" / "cut.wav")
    whole = (folder / "low" / "cut.wav").read_bytes()
    (folder / "low" / "cut.wav").write_bytes(whole[:3000])
    (folder / "low" / "phone.m4a").write_bytes(b"....ftypM4A ")
    nan = np.full(800, np.nan, np.float32)
    soundfile.write(folder / "low" / "nan.wav", nan, 8000, subtype="FLOAT")
    (folder / "low" / "damaged.wav").write_bytes(b"RIFF....WAVE")


def test_bad_recordings_are_named_then_fatal_or_skipped(tmp_path):
    make_words(tmp_path / "words")
    damage_recordings(tmp_path / "words")
    arguments = {"sources": {"words": "words"}, "root": str(tmp_path)}
    with pytest.raises(DataError) as caught:
        _ = AudioFolderDataModule(**arguments).domains
    message = str(caught.value)
    for part in (
        "8 bad inputs",
        "1 x sample rate 16000, not 8000 (words/low/rate.wav)",
        "1 x recording of 0 seconds (words/low/empty.wav)",
        "2 x recording of silence (words/low/dead.wav, words/low/silent.wav)",
        "1 x recording is cut off (words/low/cut.wav)",
        "1 x recording cannot be decoded; convert it to wav (words/low/phone.m4a)",
        "1 x NaN or infinite values (words/low/nan.wav)",
        "1 x recording cannot be decoded (words/low/damaged.wav)",
    ):
        assert part in message
    with pytest.warns(UserWarning, match="8 bad inputs"):
        domain = AudioFolderDataModule(on_bad_data="skip", **arguments).domains["words"]
    assert len(domain.train_labels) + len(domain.test_labels) == 20
    assert domain.class_names == ("high", "low")


def test_a_class_whose_recordings_are_all_bad_is_named(tmp_path):
    make_words(tmp_path / "words")
    (tmp_path / "words" / "maybe").mkdir()
    soundfile.write(tmp_path / "words" / "maybe" / "0.wav", np.zeros(800, np.float32), 8000)
    data = AudioFolderDataModule({"words": "words"}, root=str(tmp_path), on_bad_data="skip")
    with (
        pytest.warns(UserWarning, match=r"1 x class without usable files \(maybe\)"),
        pytest.warns(UserWarning, match="no training sample has class maybe: the classes are"),
    ):
        assert data.domains["words"].class_names == ("high", "low")
    assert data.sample_shape.num_classes == 2


def test_mp3_files_are_read_too(tmp_path):
    make_words(tmp_path / "words")
    soundfile.write(tmp_path / "words" / "low" / "x.mp3", make_tone(500), 8000)
    domain = AudioFolderDataModule({"words": "words"}, root=str(tmp_path)).domains["words"]
    assert len(domain.train_labels) + len(domain.test_labels) == 21


def test_the_size_of_sound_is_set_in_one_place():
    with pytest.raises(DataError, match=r"set spectrogram\.size"):
        SpokenDigitsDataModule(image_size=64)


def test_mixed_rates_can_be_accepted(tmp_path):
    make_words(tmp_path / "words")
    save_tone(tmp_path / "words" / "low" / "rate.wav", sample_rate=16000)
    arguments = {"sources": {"words": "words"}, "root": str(tmp_path), "mixed_rates": True}
    domain = AudioFolderDataModule(**arguments).domains["words"]
    assert len(domain.train_labels) + len(domain.test_labels) == 21


def test_written_recordings_can_be_read_again(tmp_path):
    wave = torch.from_numpy(make_tone(440))
    write_recording(tmp_path / "a.wav", wave, 8000)
    values, rate = soundfile.read(tmp_path / "a.wav")
    assert rate == 8000 and np.abs(values - wave.numpy()).max() < 1e-4


def test_real_digits_survive_the_way_there_and_back(shared_data):
    data = SpokenDigitsDataModule(
        root=str(shared_data), partitioner=NaturalIdPartitioner(), clients_per_domain=6
    )
    assert data.client_sizes == dict.fromkeys(range(6), 450)
    assert len(data.domains["fsdd"].test_labels) == 300
    samples = data.domains["fsdd"].test_samples[::15]
    again = data.spectrogram(data.spectrogram.invert(samples))
    assert decibels(data.spectrogram, again.int() - samples.int()) < 1.5
