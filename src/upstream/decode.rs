//! Content codings of answers: undone whole, within a cap, or refused.
//!
//! *Invariants*
//! 1. At most `cap` bytes come out; the decoders hold no more than that and their window.
//! 2. What comes out is the whole content: truncated input, trailing bytes and wrong checksums are
//!    errors, so that nothing can hide behind what was masked.
//! 3. One coding at most, named on one line.
//!
//! *Why not a decoding middleware:* those stream, stop where the first member ends, and stack
//! codings; here an answer is proven whole or not passed at all.

use std::io::{self, Read};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Why a content coding can't be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// None that is known here, or more than one.
    #[error("an unknown content coding, or more than one")]
    Unsupported,
    /// More comes out than is allowed.
    #[error("the decoded body is too large")]
    TooLarge,
    /// It needs a larger window than is allowed (RFC 9659), or one that brotli doesn't define.
    #[error("the coding's window is too large")]
    Window,
    /// Broken, cut off, or followed by something else.
    #[error("the coded body is broken or incomplete")]
    Broken,
}

/// Undoes the Content-Encoding that `fields` name (RFC 9110 §8.4).
///
/// An empty body is empty in every coding. `deflate` is taken with the zlib wrapper and, as many
/// senders leave it out, without (RFC 9110 §8.4.1.2).
///
/// # Errors
/// When the coding is unknown or repeated, more than `cap` bytes would come out, or the body isn't
/// exactly one coded content.
pub fn decode(body: Bytes, fields: &HeaderMap, cap: usize) -> Result<Bytes, DecodeError> {
    let plain = |body: Bytes| if body.len() > cap { Err(DecodeError::TooLarge) } else { Ok(body) };
    let mut lines = fields.get_all(CONTENT_ENCODING).iter();
    let Some(coding) = lines.next() else { return plain(body) };
    if lines.next().is_some() {
        return Err(DecodeError::Unsupported);
    }
    let undo = match coding.as_bytes().trim_ascii().to_ascii_lowercase().as_slice() {
        b"identity" => return plain(body),
        b"gzip" | b"x-gzip" => gzip,
        b"deflate" => deflate,
        b"br" => brotli,
        b"zstd" => zstd,
        _ => return Err(DecodeError::Unsupported),
    };
    if body.is_empty() {
        return Ok(body);
    }
    undo(&body, cap)
}

/// Several members are one body (RFC 1952 §2.2); anything after the last is an error.
fn gzip(body: &[u8], cap: usize) -> Result<Bytes, DecodeError> {
    let mut out = Output::new(body.len(), cap);
    out.take(&mut MultiGzDecoder::new(body))?;
    Ok(out.done())
}

fn deflate(body: &[u8], cap: usize) -> Result<Bytes, DecodeError> {
    let mut inflate = Decompress::new(has_zlib_header(body));
    let mut out = Output::new(body.len(), cap);
    let mut rest = body;
    loop {
        let (before_in, before_out) = (inflate.total_in(), inflate.total_out());
        let status = inflate
            .decompress(rest, &mut out.piece, FlushDecompress::None)
            .or(Err(DecodeError::Broken))?;
        let used = distance(before_in, inflate.total_in());
        let made = distance(before_out, inflate.total_out());
        rest = rest.get(used..).unwrap_or_default();
        out.keep(made)?;
        match status {
            Status::StreamEnd if rest.is_empty() => return Ok(out.done()),
            Status::StreamEnd => return Err(DecodeError::Broken),
            Status::Ok | Status::BufError if used == 0 && made == 0 => {
                return Err(DecodeError::Broken);
            }
            Status::Ok | Status::BufError => {}
        }
    }
}

fn brotli(body: &[u8], cap: usize) -> Result<Bytes, DecodeError> {
    // `new_strict` knows no large window: such a stream is broken to it.
    let mut state = BrotliState::new_strict(
        StandardAlloc::default(),
        StandardAlloc::default(),
        StandardAlloc::default(),
    );
    let mut out = Output::new(body.len(), cap);
    let (mut left, mut read, mut total) = (body.len(), 0, 0);
    if large_window(body) {
        return Err(DecodeError::Window);
    }
    loop {
        let (mut room, mut made) = (out.piece.len(), 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut read,
            body,
            &mut room,
            &mut made,
            &mut out.piece,
            &mut total,
            &mut state,
        );
        out.keep(made)?;
        match result {
            BrotliResult::ResultSuccess if left == 0 => return Ok(out.done()),
            BrotliResult::NeedsMoreOutput => {}
            // More input than there is, bytes left over, or an invalid stream.
            BrotliResult::ResultSuccess
            | BrotliResult::NeedsMoreInput
            | BrotliResult::ResultFailure => return Err(DecodeError::Broken),
        }
    }
}

/// Several frames are one body, skippable ones hold nothing (RFC 8878 §3).
fn zstd(body: &[u8], cap: usize) -> Result<Bytes, DecodeError> {
    let mut out = Output::new(body.len(), cap);
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(ZSTD_WINDOW);
    let mut rest = body;
    while !rest.is_empty() {
        match decoder.init(&mut rest) {
            Ok(()) => zstd_frame(&mut decoder, &mut rest, &mut out)?,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                rest = rest.get(length..).ok_or(DecodeError::Broken)?;
            }
            Err(
                FrameDecoderError::WindowSizeTooBig { .. } | FrameDecoderError::FrameHeaderError(_),
            ) => return Err(DecodeError::Window),
            Err(_) => return Err(DecodeError::Broken),
        }
    }
    Ok(out.done())
}

fn zstd_frame(
    decoder: &mut FrameDecoder,
    rest: &mut &[u8],
    out: &mut Output,
) -> Result<(), DecodeError> {
    let before = out.all.len();
    while !decoder.is_finished() {
        decoder
            .decode_blocks(&mut *rest, BlockDecodingStrategy::UptoBlocks(1))
            .or(Err(DecodeError::Broken))?;
        out.take(decoder)?;
    }
    let checksum = decoder.get_checksum_from_data();
    if checksum.is_some() && checksum != decoder.get_calculated_checksum() {
        return Err(DecodeError::Broken);
    }
    // 0 stands for a size that the frame doesn't state.
    let stated = usize::try_from(decoder.content_size()).unwrap_or(usize::MAX);
    if stated != 0 && stated != out.all.len() - before {
        return Err(DecodeError::Broken);
    }
    Ok(())
}

/// What has come out so far, never more than the cap.
struct Output {
    all: Vec<u8>,
    piece: Vec<u8>,
    cap: usize,
}

impl Output {
    fn new(coded: usize, cap: usize) -> Self {
        let guess = coded.saturating_mul(4).min(cap);
        Self { all: Vec::with_capacity(guess), piece: vec![0; PIECE], cap }
    }

    /// Keeps the first `made` bytes of the piece.
    fn keep(&mut self, made: usize) -> Result<(), DecodeError> {
        let piece = self.piece.get(..made).ok_or(DecodeError::Broken)?;
        if piece.len() > self.cap - self.all.len() {
            return Err(DecodeError::TooLarge);
        }
        self.all.extend_from_slice(piece);
        Ok(())
    }

    /// Keeps all that `source` has to give.
    fn take(&mut self, source: &mut impl Read) -> Result<(), DecodeError> {
        loop {
            match source.read(&mut self.piece) {
                Ok(0) => return Ok(()),
                Ok(made) => self.keep(made)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(DecodeError::Broken),
            }
        }
    }

    fn done(self) -> Bytes {
        Bytes::from(self.all)
    }
}

/// RFC 1950 §2.2: method 8, and a check that makes both bytes a multiple of 31.
fn has_zlib_header(body: &[u8]) -> bool {
    match body {
        [method, flags, ..] => {
            method & 0x0f == 8 && (u16::from(*method) << 8 | u16::from(*flags)) % 31 == 0
        }
        _ => false,
    }
}

/// The first bits of a brotli stream that asks for the large-window extension: 0010001.
fn large_window(body: &[u8]) -> bool {
    body.first().is_some_and(|first| first & 0x7f == 0x11)
}

fn distance(from: u64, to: u64) -> usize {
    usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX)
}

/// Largest window of zstd: what RFC 9659 asks every decoder of the Web to support, and no more.
const ZSTD_WINDOW: u64 = 8 << 20;

/// How much is decoded at a time.
const PIECE: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use http::HeaderValue;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    const CAP: usize = 1 << 20;

    fn named(coding: &str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_str(coding).unwrap())])
    }

    fn undo(coding: &str, body: &[u8], cap: usize) -> Result<Bytes, DecodeError> {
        decode(Bytes::copy_from_slice(body), &named(coding), cap)
    }

    fn code(coding: &str, plain: &[u8]) -> Vec<u8> {
        match coding {
            "gzip" => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            "deflate" => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            "raw" => {
                let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            "br" => {
                let mut coded = Vec::new();
                let params = brotli::enc::BrotliEncoderParams { lgwin: 22, ..Default::default() };
                brotli::BrotliCompress(&mut &*plain, &mut coded, &params).unwrap();
                coded
            }
            _ => compress_to_vec(plain, CompressionLevel::Fastest),
        }
    }

    /// Something that compresses, though not to nothing.
    fn plain() -> Vec<u8> {
        (0..3_000_u32)
            .flat_map(|n| format!("{{\"n\":{}}},", n.wrapping_mul(n)).into_bytes())
            .collect()
    }

    const ALL: [&str; 4] = ["gzip", "deflate", "br", "zstd"];

    #[test]
    fn every_coding_gives_back_what_went_in() {
        for coding in ALL {
            let coded = code(coding, &plain());
            assert!(coded.len() < plain().len());
            assert_eq!(undo(coding, &coded, CAP).unwrap(), plain(), "{coding}");
        }
        assert_eq!(undo("deflate", &code("raw", &plain()), CAP).unwrap(), plain());
        assert_eq!(undo(" X-GZip ", &code("gzip", &plain()), CAP).unwrap(), plain());
        assert_eq!(undo("identity", &plain(), CAP).unwrap(), plain());
        assert_eq!(decode(plain().into(), &HeaderMap::new(), CAP).unwrap(), plain());
    }

    #[test]
    fn the_cap_is_exact_in_every_coding() {
        let plain = plain();
        for coding in ALL {
            let coded = code(coding, &plain);
            assert!(undo(coding, &coded, plain.len()).is_ok(), "{coding}");
            let over = undo(coding, &coded, plain.len() - 1);
            assert_eq!(over, Err(DecodeError::TooLarge), "{coding}");
        }
        assert_eq!(undo("identity", &plain, plain.len() - 1), Err(DecodeError::TooLarge));
    }

    #[test]
    fn a_bomb_stops_at_the_cap() {
        let bomb = vec![0; 4 << 20];
        for coding in ALL {
            let coded = code(coding, &bomb);
            assert!(coded.len() < bomb.len() / 500, "{coding}");
            assert_eq!(undo(coding, &coded, 4_096), Err(DecodeError::TooLarge), "{coding}");
        }
    }

    #[test]
    fn a_body_cut_off_anywhere_is_refused() {
        let plain = &plain()[..2_000];
        for coding in ["gzip", "deflate", "raw", "br", "zstd"] {
            let coded = code(coding, plain);
            let name = if coding == "raw" { "deflate" } else { coding };
            for end in 1..coded.len() {
                assert!(undo(name, &coded[..end], CAP).is_err(), "{coding} cut at {end}");
            }
        }
    }

    #[test]
    fn a_body_followed_by_something_else_is_refused() {
        for coding in ["gzip", "deflate", "raw", "br", "zstd"] {
            let coded = code(coding, b"[]");
            let name = if coding == "raw" { "deflate" } else { coding };
            for tail in [&b"\0"[..], b"{\"apiKey\":1}", &[0; 5_000]] {
                let body = [&coded, tail].concat();
                assert_eq!(undo(name, &body, CAP), Err(DecodeError::Broken), "{coding}");
            }
        }
    }

    #[test]
    fn several_members_or_frames_are_one_body() {
        for coding in ["gzip", "zstd"] {
            let body = [code(coding, b"[1,"), code(coding, b""), code(coding, b"2]")].concat();
            assert_eq!(&undo(coding, &body, CAP).unwrap()[..], b"[1,2]", "{coding}");
        }
        let skipped = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3], &code("zstd", b"[]")[..]];
        assert_eq!(&undo("zstd", &skipped.concat(), CAP).unwrap()[..], b"[]");
        let short = [0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1];
        assert_eq!(undo("zstd", &short, CAP), Err(DecodeError::Broken));
    }

    #[test]
    fn a_wrong_checksum_is_refused() {
        let mut coded = code("gzip", b"[1]");
        let at = coded.len() - 8;
        coded[at] ^= 1;
        assert_eq!(undo("gzip", &coded, CAP), Err(DecodeError::Broken));
        let mut coded = code("deflate", b"[1]");
        *coded.last_mut().unwrap() ^= 1;
        assert_eq!(undo("deflate", &coded, CAP), Err(DecodeError::Broken));
        let mut coded = code("zstd", b"[1]");
        assert_ne!(coded[4] & 4, 0, "the encoder adds a checksum");
        *coded.last_mut().unwrap() ^= 1;
        assert_eq!(undo("zstd", &coded, CAP), Err(DecodeError::Broken));
    }

    /// A frame of one raw block `[]` under a window descriptor (RFC 8878 §3.1.1).
    fn windowed(descriptor: u8) -> Vec<u8> {
        [&0xfd2f_b528_u32.to_le_bytes()[..], &[0, descriptor, 0x11, 0, 0], b"[]"].concat()
    }

    #[test]
    fn a_zstd_window_above_8_mib_is_refused() {
        let exponent = |log: u8| (log - 10) << 3;
        assert_eq!(&undo("zstd", &windowed(exponent(23)), CAP).unwrap()[..], b"[]");
        for descriptor in [exponent(23) | 1, exponent(24), exponent(27), 0xff] {
            assert_eq!(undo("zstd", &windowed(descriptor), CAP), Err(DecodeError::Window));
        }
        // A single segment is its own window: 8 MiB and a byte, stated in four bytes.
        let stated = u32::to_le_bytes((8 << 20) + 1);
        let single = [&0xfd2f_b528_u32.to_le_bytes()[..], &[0xa0], &stated, &[0x11, 0, 0], b"[]"];
        assert_eq!(undo("zstd", &single.concat(), CAP), Err(DecodeError::Window));
    }

    #[test]
    fn a_zstd_frame_of_another_size_than_stated_is_refused() {
        let magic = 0xfd2f_b528_u32.to_le_bytes();
        let stating = |size: u8| [&magic[..], &[0x20, size, 0x11, 0, 0], b"[]"].concat();
        assert_eq!(&undo("zstd", &stating(2), CAP).unwrap()[..], b"[]");
        for size in [1, 3] {
            assert_eq!(undo("zstd", &stating(size), CAP), Err(DecodeError::Broken));
        }
    }

    #[test]
    fn a_zstd_frame_that_needs_a_dictionary_is_refused() {
        let frame = [&0xfd2f_b528_u32.to_le_bytes()[..], &[1, 0, 7, 0x11, 0, 0], b"[]"].concat();
        assert_eq!(undo("zstd", &frame, CAP), Err(DecodeError::Broken));
    }

    #[test]
    fn the_large_window_of_brotli_is_refused() {
        let params = brotli::enc::BrotliEncoderParams {
            quality: 5,
            large_window: true,
            lgwin: 26,
            ..Default::default()
        };
        let mut coded = Vec::new();
        brotli::BrotliCompress(&mut &plain()[..], &mut coded, &params).unwrap();
        assert_eq!(undo("br", &coded, CAP), Err(DecodeError::Window));
    }

    #[test]
    fn one_known_coding_is_all_there_may_be() {
        for coding in ["gzip, br", "gzip,gzip", "gzip,", "", "compress", "aes128gcm", "gzip;q=1"] {
            assert_eq!(undo(coding, b"x", CAP), Err(DecodeError::Unsupported), "{coding:?}");
        }
        let mut twice = named("gzip");
        twice.append(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let body = code("gzip", b"[]").into();
        assert_eq!(decode(body, &twice, CAP), Err(DecodeError::Unsupported));
    }

    #[test]
    fn an_empty_body_is_empty_in_every_coding() {
        for coding in ALL {
            assert!(undo(coding, b"", CAP).unwrap().is_empty());
            assert!(undo(coding, &code(coding, b""), CAP).unwrap().is_empty(), "{coding}");
        }
    }

    #[test]
    fn no_bytes_make_a_decoder_panic_or_pass_its_cap() {
        let dice = crate::clock::Dice::seeded(3);
        let roll = |below: usize| usize::try_from(dice.roll()).unwrap() % below;
        for coding in ALL {
            let whole = code(coding, &plain()[..4_000]);
            for _ in 0..500 {
                let mut broken = whole.clone();
                for _ in 0..=roll(3) {
                    let at = roll(broken.len());
                    broken[at] = u8::try_from(roll(256)).unwrap();
                }
                broken.truncate(1 + roll(broken.len()));
                if let Ok(plain) = undo(coding, &broken, 5_000) {
                    assert!(plain.len() <= 5_000);
                }
            }
        }
    }
}
