"""Recordings of each format that the server takes, whole and broken in ways that decoders meet."""

import io
import struct

import av
import numpy as np
import soundfile
from made_bundles import tone

SOUNDFILE = {
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "flac": ("FLAC", "PCM_16"),
    "wav": ("WAV", "PCM_16"),
    "float": ("WAV", "FLOAT"),
    "adpcm": ("WAV", "IMA_ADPCM"),
    "aiff": ("AIFF", "PCM_16"),
}
BROWSER = {"webm": ("webm", "libopus", 48_000), "mp4": ("mp4", "aac", 44_100)}
FORMATS = (*SOUNDFILE, *BROWSER)


def encoded(wave: np.ndarray, rate: int, form: str) -> bytes:
    """A mono wave in a format; browsers' formats have rates of their own."""
    buffer = io.BytesIO()
    if form in SOUNDFILE:
        kind, subtype = SOUNDFILE[form]
        with soundfile.SoundFile(buffer, "w", rate, 1, format=kind, subtype=subtype) as file:
            # The encoder of Vorbis overflows the stack with a minute at once.
            for start in range(0, len(wave), rate):
                file.write(wave[start : start + rate])
        return buffer.getvalue()
    kind, codec, wanted = BROWSER[form]
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=wanted, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), "fltp", "mono")
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return buffer.getvalue()


def song(form: str, hertz: float = 1000, seconds: float = 6.0) -> bytes:
    """A tone in a format, at a rate that the format takes."""
    rate = BROWSER[form][2] if form in BROWSER else 48_000 if form == "opus" else 32_000
    return encoded(tone(hertz, seconds, rate), rate, form)


def remuxed(data: bytes, form: str) -> bytes:
    """The same packets in another container."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(buffer, "w", format=form) as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return buffer.getvalue()


def wav_header(rate: int, channels: int, claimed_bytes: int) -> bytes:
    """The header of a 16-bit WAV that claims what it likes."""
    width = 2 * channels
    form = struct.pack(
        "<HHIIHH", 1, channels, rate, (rate * width) & 0xFFFFFFFF, width & 0xFFFF, 16
    )
    return (
        b"RIFF"
        + struct.pack("<I", min(0xFFFFFFFF, claimed_bytes + 36))
        + b"WAVEfmt "
        + struct.pack("<I", len(form))
        + form
        + b"data"
        + struct.pack("<I", claimed_bytes)
    )


def silence(hours: float, form: str = "FLAC", rate: int = 1_000) -> bytes:
    """Hours of nothing in few bytes."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, 1, format=form) as file:
        minute = np.zeros(60 * rate, np.int16)
        for _ in range(round(60 * hours)):
            file.write(minute)
    return buffer.getvalue()
