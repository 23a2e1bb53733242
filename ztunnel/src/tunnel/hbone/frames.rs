//! The frames in a stream of HTTP/2 bytes, by their heads; what they carry goes by unread.

/// RFC 9113 section 4.1.
pub(super) const HEAD: usize = 9;
const CODE: usize = 4;

/// The frame types that are told apart (RFC 9113 section 6).
pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0;
    pub(in super::super) const HEADERS: u8 = 1;
    pub(in super::super) const RST_STREAM: u8 = 3;
    pub(in super::super) const CONTINUATION: u8 = 9;
}

/// What a frame says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// Of its payload, in bytes.
    pub(super) length: u32,
    /// Why a stream is reset; only `RST_STREAM` says it.
    pub(super) reason: Option<u32>,
}

/// Follows the bytes from frame to frame, however they are cut into pieces.
#[derive(Debug)]
pub(super) struct Frames {
    seen: [u8; HEAD + CODE],
    len: usize,
    /// Of the current frame's payload (or of what comes before the first frame), still to come.
    skip: u64,
}

impl Frames {
    /// After so many bytes that are no frame.
    pub(super) fn after(preface: usize) -> Self {
        Self { seen: [0; HEAD + CODE], len: 0, skip: preface as u64 }
    }

    /// The next frame whose head ends in `bytes`, which are read up to there; `None` when all are read.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        loop {
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
            self.skip -= skipped as u64;
            let (&byte, rest) = bytes.get(skipped..)?.split_first().or_else(|| {
                *bytes = &[];
                None
            })?;
            *bytes = rest;
            if let Some(place) = self.seen.get_mut(self.len) {
                *place = byte;
            }
            self.len += 1;
            if let Some(frame) = self.complete() {
                return Some(frame);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_between_two(&self) -> bool {
        (self.len, self.skip) == (0, 0)
    }

    fn complete(&mut self) -> Option<Frame> {
        if self.len < HEAD {
            return None;
        }
        let [a, b, c, kind, flags, _, _, _, _, reason @ ..] = self.seen;
        let length = u32::from_be_bytes([0, a, b, c]);
        let has_reason = kind == kind::RST_STREAM && length as usize == CODE;
        let wanted = if has_reason { HEAD + CODE } else { HEAD };
        if self.len < wanted {
            return None;
        }
        self.skip = u64::from(length) - (wanted - HEAD) as u64;
        self.len = 0;
        let reason = has_reason.then(|| u32::from_be_bytes(reason));
        Some(Frame { kind, flags, length, reason })
    }
}
