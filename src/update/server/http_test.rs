//! What happens to connections that go nowhere.

use std::{sync::Arc, time::Duration};

use futures_util::stream;
use http::Response;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use super::serve;

/// Tells when nobody holds it any more.
struct Held(Arc<Notify>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn who_reads_nothing_is_let_go_of() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let let_go = Arc::new(Notify::new());
    let told = Arc::clone(&let_go);
    let answer = move |_, _| {
        // It has no end: whoever reads gets more.
        let pieces = stream::unfold(Held(Arc::clone(&told)), |held| async {
            Some((Ok(Frame::data(Bytes::from_static(&[0; 4096]))), held))
        });
        async { Response::new(StreamBody::new(pieces).boxed_unsync()) }
    };
    let serving = tokio::spawn(serve(listener, None, answer));
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("it is read");
    let waited = tokio::time::timeout(Duration::from_secs(60), let_go.notified()).await;
    waited.expect("its place is free again");
    serving.abort();
}
