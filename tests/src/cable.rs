//! A network of its own for one process, on a cable that a test can pull: a Linux network namespace and a veth pair.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// Cables made by this process.
static MADE: AtomicU32 = AtomicU32::new(0);

/// A namespace named after this process, and the two ends of a link to it. All of it goes when this does.
#[derive(Debug)]
pub struct Cable {
    name: String,
    /// This side's end.
    pub outside: Ipv4Addr,
    /// The end in the namespace.
    pub inside: Ipv4Addr,
    forwards: Vec<AbortOnDropHandle<()>>,
}

impl Cable {
    /// Whether this machine lets this user make network namespaces.
    pub fn can_be_made() -> bool {
        Self::lay().is_ok()
    }

    /// Makes the namespace and the link.
    pub fn lay() -> anyhow::Result<Self> {
        let (process, number) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        // A /30 of the block that is set aside for tests of networks (RFC 2544).
        let [_, high, low] = (process ^ number.wrapping_mul(0x9e37_79b9)).to_be_bytes()[1..] else {
            anyhow::bail!("an address has four parts");
        };
        let address = |last| Ipv4Addr::new(198, 18 + (high & 1), high, (low & 0xfc) + last);
        let name = format!("ec{process}-{number}");
        let cable = Self { name, outside: address(1), inside: address(2), forwards: Vec::new() };
        cable.connect()?;
        Ok(cable)
    }

    fn connect(&self) -> anyhow::Result<()> {
        let (name, near) = (self.name.as_str(), self.near());
        let (outside, inside) = (format!("{}/30", self.outside), format!("{}/30", self.inside));
        ip(&["netns", "add", name])?;
        ip(&["link", "add", &near, "type", "veth", "peer", "name", "far", "netns", name])?;
        ip(&["addr", "add", &outside, "dev", &near])?;
        ip(&["link", "set", &near, "up"])?;
        ip(&["-n", name, "addr", "add", &inside, "dev", "far"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&["-n", name, "link", "set", "far", "up"])
    }

    /// What runs a program in the namespace.
    pub fn wrapper(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name].map(str::to_owned).into()
    }

    /// An address that the namespace reaches a service of this machine's loopback by.
    #[expect(clippy::disallowed_methods, reason = "it ends with the cable")]
    pub async fn forward(&mut self, to: SocketAddr) -> anyhow::Result<SocketAddr> {
        let listener = TcpListener::bind((self.outside, 0)).await?;
        let address = listener.local_addr()?;
        let forwarding = tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if let Ok(mut to) = TcpStream::connect(to).await {
                        // Either side may go at any time: that is what such a link is for.
                        let _ended = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        });
        self.forwards.push(AbortOnDropHandle::new(forwarding));
        Ok(address)
    }

    /// Pulls the cable: nothing gets through, and nobody is told.
    pub fn pull(&self) -> anyhow::Result<()> {
        ip(&["-n", &self.name, "link", "set", "far", "down"])
    }

    pub fn plug(&self) -> anyhow::Result<()> {
        ip(&["-n", &self.name, "link", "set", "far", "up"])
    }

    /// What is sent still arrives, but nothing comes back. Unlike a cable that is pulled, this side's kernel cannot know,
    /// and waits ever longer between its attempts.
    pub fn swallow(&self) -> anyhow::Result<()> {
        ip(&["-n", &self.name, "route", "add", "blackhole", &self.outside.to_string()])
    }

    /// Another namespace takes its place, at the same address, which knows of no connection. What ran in it must have
    /// ended.
    pub fn replace(&self) -> anyhow::Result<()> {
        self.cut()?;
        self.connect()
    }

    fn cut(&self) -> anyhow::Result<()> {
        // The far end goes with the near one.
        ip(&["link", "del", &self.near()])?;
        ip(&["netns", "del", &self.name])
    }

    fn near(&self) -> String {
        format!("v{}", &self.name)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        if let Err(error) = self.cut() {
            eprintln!("{error:#}");
        }
    }
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    let command = format!("ip {}", args.join(" "));
    let done = Command::new("ip").args(args).output().with_context(|| command.clone())?;
    anyhow::ensure!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}
