//! [`Packed`]: a few bytes in a row, where they are if they are few; and the numbers in them.

/// Bytes that are read from the first on, and end where their reader says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Packed {
    /// Zeros follow them.
    Here([u8; HERE]),
    Apart(Box<[u8]>),
}

/// What a usual answer takes, about a unit that is a UUID; and with what tells the two forms apart, three words.
const HERE: usize = 23;

impl Packed {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Here(bytes) => bytes,
            Self::Apart(bytes) => bytes,
        }
    }

    /// Memory it takes elsewhere, in bytes.
    pub(super) fn apart(&self) -> usize {
        match self {
            Self::Here(_) => 0,
            Self::Apart(bytes) => bytes.len(),
        }
    }
}

impl From<&[u8]> for Packed {
    fn from(bytes: &[u8]) -> Self {
        let mut here = [0; HERE];
        match here.get_mut(..bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                Self::Here(here)
            }
            None => Self::Apart(bytes.into()),
        }
    }
}

/// Appends a number in sevens of bits, the lowest first.
pub(super) fn write(number: usize, out: &mut Vec<u8>) {
    let mut left = number;
    while left > LOW {
        let [low, ..] = left.to_le_bytes();
        out.push(low | MORE);
        left >>= 7;
    }
    let [last, ..] = left.to_le_bytes();
    out.push(last);
}

/// Reads packed bytes from the first on; past the end there are zeros.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn number(&mut self) -> usize {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        let low = usize::from(byte & !MORE);
        if byte & MORE == 0 { low } else { self.number() << 7 | low }
    }

    pub(super) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at_checked(count).unwrap_or((self.0, &[]));
        self.0 = rest;
        bytes
    }

    pub(super) fn skip(&mut self, count: usize) {
        self.bytes(count);
    }

    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        self.bytes(N).try_into().unwrap_or([0; N])
    }
}

/// Marks a byte of a number that has higher ones after it.
const MORE: u8 = 1 << 7;

/// What one byte can tell without it.
const LOW: usize = 127;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_takes_three_words() {
        assert_eq!(size_of::<Packed>(), 3 * size_of::<usize>());
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_put_in(
            numbers in proptest::collection::vec(any::<usize>(), 0..9),
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut written = Vec::new();
            for number in &numbers {
                write(*number, &mut written);
            }
            written.extend_from_slice(&bytes);
            let packed = Packed::from(&written[..]);
            let mut reader = Reader(packed.bytes());
            for number in numbers {
                prop_assert_eq!(reader.number(), number);
            }
            prop_assert_eq!(reader.bytes(bytes.len()), &bytes[..]);
            prop_assert!(reader.0.iter().all(|byte| *byte == 0));
        }
    }
}
