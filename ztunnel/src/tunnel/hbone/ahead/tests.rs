use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::{AHEAD, ReadAhead};

/// Gives the bytes of a pattern, at most `burst` a read, and counts the reads.
struct Source {
    left: usize,
    given: usize,
    burst: usize,
    reads: Rc<Cell<usize>>,
}

impl AsyncRead for Source {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.reads.set(self.reads.get() + 1);
        let count = self.left.min(self.burst).min(into.remaining());
        let bytes: Vec<u8> = (self.given..self.given + count).map(pattern).collect();
        into.put_slice(&bytes);
        self.left -= count;
        self.given += count;
        Poll::Ready(Ok(()))
    }
}

fn pattern(index: usize) -> u8 {
    u8::try_from((index * 7 + index / 253) % 256).unwrap()
}

/// Reads all in pieces of `piece`; answers how often the source was asked.
async fn read_all(length: usize, burst: usize, piece: usize) -> usize {
    let reads = Rc::new(Cell::new(0));
    let source = Source { left: length, given: 0, burst, reads: reads.clone() };
    let mut ahead = ReadAhead::new(source);
    let (mut received, mut space) = (Vec::<u8>::new(), vec![0; piece]);
    loop {
        match ahead.read(&mut space).await.unwrap() {
            0 => break,
            count => received.extend(space.iter().take(count)),
        }
    }
    assert!(received.into_iter().eq((0..length).map(pattern)), "bytes differ");
    reads.get()
}

#[tokio::test]
async fn fast_bytes_are_read_many_records_at_once_and_in_order() {
    let length = 4 << 20;
    let reads = read_all(length, usize::MAX, 16 * 1024).await;
    assert!(reads <= length / AHEAD + 4, "{reads}");
}

#[tokio::test]
async fn slow_bytes_go_through_as_they_come() {
    assert_eq!(read_all(100 * 1000, 1000, 16 * 1024).await, 101);
}

#[tokio::test]
async fn any_size_of_pieces_reads_the_same() {
    for piece in [1, 5, 4096, 20_000, 300_000] {
        read_all(500_000, 70_000, piece).await;
    }
}
