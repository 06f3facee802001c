//! How an endpoint's buffers get to where it can reach them, and how much of that is in use.

use core::time::Duration;

/// How the buffers of a driver reach its endpoint.
///
/// | buffer | way | requests |
/// |---|---|---|
/// | up to [`bounce_up_to`](Self::bounce_up_to) bytes, or not whole pages | copied through the window | none |
/// | whole pages, longer | mapped while the endpoint has them | MAP and UNMAP |
/// | the same, [deferred](Self::deferred) | mapped until a later flush | none, if it recurs |
///
/// A long buffer that does not begin at a page, or does not end at one, is copied as a whole: every
/// byte of it, into a place of whole pages in the window, which has to have that many in a row. Who
/// has long buffers and wants them mapped, aligns them to the granule of the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdapterOptions {
    /// The part of the window that the endpoint can read, in bytes; 256 KiB by default.
    pub window_to_device: usize,
    /// The part of the window that the endpoint can write, in bytes; 256 KiB by default.
    pub window_from_device: usize,
    /// Buffers of whole pages up to so many bytes are copied, not mapped; 16 KiB by default.
    pub bounce_up_to: usize,
    /// Buffers that are mapped at once, those whose UNMAP is put off included; 64 by default. The
    /// domain needs room for them, too: see [`DomainOptions`](crate::DomainOptions).
    pub mappings: usize,
    /// Whether a buffer that the endpoint is to write is filled with zeros before it is mapped.
    /// `true` by default: some IOMMUs let an endpoint read what it may only write (virtio 1.2
    /// §5.13.6.5.2), and would show it what was there before. Nothing is done to buffers that
    /// are copied: they stay out of its reach.
    pub conceal: bool,
    /// The longest wait for a reset of the device; 2 s by default.
    pub reset_timeout: Duration,
    deferred: bool,
}

impl Default for AdapterOptions {
    fn default() -> Self {
        Self {
            window_to_device: 256 << 10,
            window_from_device: 256 << 10,
            bounce_up_to: 16 << 10,
            mappings: 64,
            conceal: true,
            reset_timeout: Duration::from_secs(2),
            deferred: false,
        }
    }
}

impl AdapterOptions {
    /// A window with so many bytes that the endpoint can read, and so many that it can write.
    #[must_use]
    pub const fn with_window(mut self, to_device: usize, from_device: usize) -> Self {
        self.window_to_device = to_device;
        self.window_from_device = from_device;
        self
    }

    /// Buffers of whole pages up to so many bytes are copied. With 0 all of them are mapped.
    #[must_use]
    pub const fn with_bounce_up_to(mut self, bytes: usize) -> Self {
        self.bounce_up_to = bytes;
        self
    }

    /// Room for so many buffers that are mapped at once.
    #[must_use]
    pub const fn with_mappings(mut self, mappings: usize) -> Self {
        self.mappings = mappings;
        self
    }

    /// Whether buffers that the endpoint is to write are filled with zeros before they are mapped:
    /// see [`conceal`](Self::conceal).
    #[must_use]
    pub const fn with_conceal(mut self, conceal: bool) -> Self {
        self.conceal = conceal;
        self
    }

    /// The longest wait for a reset of the device.
    #[must_use]
    pub const fn with_reset_timeout(mut self, timeout: Duration) -> Self {
        self.reset_timeout = timeout;
        self
    }

    /// Buffers of whole pages stay mapped when the driver has them back, until
    /// [`Domain::poll`](crate::Domain::poll) or [`Domain::flush`](crate::Domain::flush) has
    /// unmapped them. A buffer that comes again meanwhile costs no request, and is not
    /// [concealed](Self::conceal) again.
    ///
    /// # Safety
    ///
    /// The pages of every buffer of whole pages that is given to the driver of this endpoint are
    /// used for nothing but buffers for this driver, from then on until `poll` or `flush` has
    /// unmapped them after the driver gave them back: the endpoint can reach them all the time.
    /// [`Usage::deferred`] and [`Domain::deferred`](crate::Domain::deferred) are 0 then.
    #[must_use]
    pub const unsafe fn deferred(mut self) -> Self {
        self.deferred = true;
        self
    }

    /// Whether UNMAPs are put off.
    #[must_use]
    pub const fn is_deferred(&self) -> bool {
        self.deferred
    }
}

/// How much of one half of a window is in use, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowUsage {
    /// All of it.
    pub size: usize,
    /// In use now; places have 64 to 2048 bytes, or whole pages.
    pub used: usize,
    /// In use at once since the endpoint was bound, at the most.
    pub most: usize,
}

/// What an endpoint has in use: tells how large its window has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// What the endpoint can read.
    pub to_device: WindowUsage,
    /// What the endpoint can write.
    pub from_device: WindowUsage,
    /// Buffers that are mapped for the endpoint now.
    pub mapped: usize,
    /// Buffers that were mapped at once, at the most.
    pub most_mapped: usize,
    /// Buffers that the driver has back, and whose UNMAP is put off.
    pub deferred: usize,
    /// Regions of queue memory that a driver has.
    pub queues: usize,
    /// Regions of queue memory that a driver has given back before the device confirmed a reset:
    /// they wait for that.
    pub waiting: usize,
    /// Addresses that a driver gave back, and that it did not have.
    pub unknown: usize,
}
