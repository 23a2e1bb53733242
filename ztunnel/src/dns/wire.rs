//! The parts of a DNS message that are looked at without decoding it, so that what we do not understand can
//! still be passed on and answered for.

/// RFC 1035, 4.1.1.
pub(super) const HEADER_BYTES: usize = 12;
/// The longest name on the wire.
const NAME_BYTES_MAX: usize = 255;

const SERVFAIL: u8 = 2;
const REFUSED: u8 = 5;

/// What a query that got no answer is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Apology {
    /// No upstream answered.
    ServerFailure,
    /// There is no upstream to ask.
    Refused,
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]))
}

pub(super) fn id(message: &[u8]) -> Option<u16> {
    u16_at(message, 0)
}

pub(super) fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.first_chunk_mut() {
        *place = id.to_be_bytes();
    }
}

pub(super) fn is_response(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & 0x80 != 0)
}

/// A standard query with one question and no records but additional ones.
pub(super) fn is_single_plain_question(message: &[u8]) -> bool {
    let opcode = message.get(2).map(|flags| (flags >> 3) & 0x0f);
    let counts = [4, 6, 8].map(|at| u16_at(message, at));
    opcode == Some(0) && counts == [Some(1), Some(0), Some(0)]
}

/// The first question: name, type, class. None where the name is compressed or runs out.
pub(super) fn question(message: &[u8]) -> Option<&[u8]> {
    if u16_at(message, 4)? == 0 {
        return None;
    }
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1 + length;
        match length {
            0 => break,
            1..=63 if at - HEADER_BYTES < NAME_BYTES_MAX => {}
            _ => return None,
        }
    }
    message.get(HEADER_BYTES..at + 4)
}

pub(super) fn question_type(message: &[u8]) -> Option<u16> {
    let question = question(message)?;
    u16_at(question, question.len().checked_sub(4)?)
}

/// AXFR and IXFR: the answer is any number of messages.
pub(super) fn is_transfer(message: &[u8]) -> bool {
    matches!(question_type(message), Some(251 | 252))
}

/// Whether `answer` belongs to `query`: its id, and the question, whose case an upstream may change.
pub(super) fn answers(answer: &[u8], query: &[u8]) -> bool {
    if answer.len() < HEADER_BYTES || !is_response(answer) || id(answer) != id(query) {
        return false;
    }
    match (question(answer), question(query)) {
        (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
        // Errors (FORMERR and the like) often come without the question.
        (None, _) => u16_at(answer, 4) == Some(0),
        (Some(_), None) => false,
    }
}

/// The query's header turned into an error, with its question where it can be told.
pub(super) fn apologize(query: &[u8], apology: Apology) -> Option<Vec<u8>> {
    let rcode = match apology {
        Apology::ServerFailure => SERVFAIL,
        Apology::Refused => REFUSED,
    };
    let header = query.first_chunk::<HEADER_BYTES>()?;
    let question = question(query);
    // Response, the query's opcode and RD; recursion available.
    let (first, second) = (0x80 | (header[2] & 0x79), 0x80 | rcode);
    let mut reply = vec![header[0], header[1], first, second];
    reply.extend_from_slice(&[0, u8::from(question.is_some()), 0, 0, 0, 0, 0, 0]);
    reply.extend_from_slice(question.unwrap_or_default());
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bytes_make_a_look_panic() {
        for length in 0..64 {
            for fill in [0, 1, 3, 63, 64, 0x80, 0xc0, 0xff] {
                let message = vec![fill; length];
                let _ = (question(&message), question_type(&message), is_response(&message));
                let _ = (answers(&message, &message), apologize(&message, Apology::Refused));
                let _ = (is_single_plain_question(&message), is_transfer(&message));
            }
        }
    }
}
