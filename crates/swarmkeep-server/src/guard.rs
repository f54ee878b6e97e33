//! Who may ask over TCP.
//!
//! A page in somebody's browser can send requests to 127.0.0.1, and can point a name of its own there (DNS rebinding).
//! So the `Host` must be a name of ours, and a request that says which page it comes from (`Origin`) is refused unless
//! that page was allowed. A token, where one is set, must be shown.

use std::{
    future::{Ready, ready},
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header, uri::Authority},
    response::{IntoResponse, Response},
};
use futures_util::future::Either;
use tower::{Layer, Service};

use crate::{
    problem::Problem,
    settings::{Secret, ServerSettings},
};

/// The rules of one listener. A tower layer of its own, not a middleware function: those cost every request a box.
#[derive(Debug, Clone)]
pub(crate) struct Guard(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    /// `None`: the port is not known (a router that somebody else serves).
    port: Option<u16>,
    hosts: Vec<String>,
    origins: Vec<String>,
    token: Option<Secret>,
}

impl Guard {
    pub(crate) fn new(settings: &ServerSettings, port: Option<u16>) -> Self {
        Self(Arc::new(Rules {
            port,
            hosts: settings.hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            origins: settings.origins.iter().map(|origin| origin.to_ascii_lowercase()).collect(),
            token: settings.token.clone(),
        }))
    }

    /// What stands against the request; nothing: let it pass, with the origin that it may be answered to.
    fn check(&self, request: &Request<Body>) -> Result<Option<HeaderValue>, Problem> {
        let rules = &*self.0;
        rules.check_host(request)?;
        let origin = rules.check_origin(request.headers())?;
        let probe = matches!(request.uri().path(), "/health/live" | "/health/ready");
        // A preflight cannot show a token, and does nothing.
        let preflight = origin.is_some() && request.method() == Method::OPTIONS;
        if let Some(token) = &rules.token
            && !probe
            && !preflight
        {
            let shown = request.headers().get(header::AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
            let is_bearer = shown.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
            if !is_bearer || !token.is(shown.get(7..).unwrap_or_default().trim_ascii()) {
                return Err(Problem::new(
                    "unauthorized",
                    "this server wants its token: send `Authorization: Bearer TOKEN`",
                ));
            }
        }
        Ok(origin)
    }
}

impl Rules {
    fn check_host(&self, request: &Request<Body>) -> Result<(), Problem> {
        let refused = |host: &str| {
            Err(Problem::new(
                "forbidden",
                format!("host `{}` is not a name of this server", host.chars().take(120).collect::<String>()),
            )
            .hint("use the address it listens on, or add the name to the setting `hosts`"))
        };
        let Some(host) = request.headers().get(header::HOST) else {
            return Err(Problem::new("forbidden", "the request has no Host"));
        };
        let host = host.to_str().unwrap_or("");
        if !self.is_ours(host) {
            return refused(host);
        }
        // A request target in absolute form names a host as well, and goes before the header.
        match request.uri().authority() {
            Some(authority) if !self.is_ours(authority.as_str()) => refused(authority.as_str()),
            _ => Ok(()),
        }
    }

    fn is_ours(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        if host.contains('@') {
            return false;
        }
        let name = authority.host();
        if self.hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name)) {
            return true;
        }
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let loopback = name.eq_ignore_ascii_case("localhost")
            || bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
        loopback && self.port.is_none_or(|port| authority.port_u16().unwrap_or(80) == port)
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, Problem> {
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(None) };
        let text = origin.to_str().unwrap_or("");
        if self.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(text)) {
            return Ok(Some(origin.clone()));
        }
        Err(Problem::new(
            "forbidden",
            format!("pages of origin `{}` may not call this server", text.chars().take(120).collect::<String>()),
        )
        .hint("add the origin to the setting `origins` if its pages are to be trusted with everything in the store"))
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { guard: self.clone(), inner }
    }
}

/// A service behind a [`Guard`].
#[derive(Debug, Clone)]
pub(crate) struct Guarded<S> {
    guard: Guard,
    inner: S,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<
        S::Future,
        Either<Ready<Result<Response, S::Error>>, futures_util::future::BoxFuture<'static, Result<Response, S::Error>>>,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.guard.check(&request) {
            Ok(None) => Either::Left(self.inner.call(request)),
            Err(problem) => Either::Right(Either::Left(ready(Ok(problem.into_response())))),
            Ok(Some(origin)) if request.method() == Method::OPTIONS => {
                Either::Right(Either::Left(ready(Ok(preflight(origin)))))
            }
            Ok(Some(origin)) => {
                let answer = self.inner.call(request);
                Either::Right(Either::Right(Box::pin(async move {
                    let mut response = answer.await?;
                    let headers = response.headers_mut();
                    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
                    headers.insert(
                        header::ACCESS_CONTROL_EXPOSE_HEADERS,
                        HeaderValue::from_static("etag, location, retry-after"),
                    );
                    headers.append(header::VARY, HeaderValue::from_static("origin"));
                    Ok(response)
                })))
            }
        }
    }
}

fn preflight(origin: HeaderValue) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE"));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static(
            "authorization, content-type, idempotency-key, if-match, if-none-match, last-event-id, swarmkeep-actor, swarmkeep-durability",
        ),
    );
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(settings: &ServerSettings, port: Option<u16>, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::builder().uri("/v1/sessions");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Guard::new(settings, port)
            .check(&request.body(Body::empty()).unwrap())
            .err()
            .map(|problem| problem.status().as_u16())
    }

    #[test]
    fn a_host_must_be_ours() {
        let settings = ServerSettings { hosts: vec!["Keep.Example".into()], ..ServerSettings::default() };
        for good in
            ["localhost:7420", "127.0.0.1:7420", "[::1]:7420", "LOCALHOST:7420", "keep.example", "keep.example:1"]
        {
            assert_eq!(status(&settings, Some(7420), &[("host", good)]), None, "{good}");
        }
        for bad in [
            "evil.example:7420",
            "localhost",
            "localhost:80",
            "localhost.evil.example:7420",
            "127.0.0.1.evil.example:7420",
            "user@localhost:7420",
            "10.0.0.1:7420",
            "",
            "localhost:7420:7420",
        ] {
            assert_eq!(status(&settings, Some(7420), &[("host", bad)]), Some(403), "{bad}");
        }
        assert_eq!(status(&settings, Some(7420), &[]), Some(403));
        assert_eq!(status(&settings, None, &[("host", "localhost:1")]), None);
    }

    #[test]
    fn pages_are_refused_unless_allowed() {
        let settings = ServerSettings { origins: vec!["https://ops.example".into()], ..ServerSettings::default() };
        let with = |origin| status(&settings, None, &[("host", "localhost"), ("origin", origin)]);
        assert_eq!(with("https://ops.example"), None);
        for bad in ["https://evil.example", "null", "https://ops.example.evil", "http://localhost"] {
            assert_eq!(with(bad), Some(403), "{bad}");
        }
    }

    #[test]
    fn a_token_must_be_shown() {
        let settings =
            ServerSettings { token: Some(Secret::new("0123456789abcdef").unwrap()), ..ServerSettings::default() };
        let with = |shown| status(&settings, None, &[("host", "localhost"), ("authorization", shown)]);
        assert_eq!(with("Bearer 0123456789abcdef"), None);
        assert_eq!(with("bearer  0123456789abcdef"), None);
        for bad in ["Bearer wrong", "Basic 0123456789abcdef", "0123456789abcdef", "Bearer "] {
            assert_eq!(with(bad), Some(401), "{bad}");
        }
        assert_eq!(status(&settings, None, &[("host", "localhost")]), Some(401));
    }
}
