#include "server/rpc/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/check.h"
#include "common/base/status.h"
#include "server/rpc/acceptor.h"
#include "server/rpc/federation_service.h"
#include "server/rpc/operator_service.h"

namespace quantfl::rpc {
namespace {

using ExternalAcceptor = grpc::experimental::ExternalConnectionAcceptor;

constexpr uint32_t kConnectionsLimit = 100'000;

absl::Status Validate(const ListenerOptions& options) {
  if (options.clients && !options.tls) {
    return absl::InvalidArgumentError(
        absl::StrCat("client certificates on ", options.address, " without TLS"));
  }
  for (const auto& [name, value] :
       {std::pair("connections_max", options.connections_max),
        std::pair("connections_per_host_max", options.connections_per_host_max)}) {
    if (value < 1 || value > kConnectionsLimit) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " is ", value, "; expected 1..", kConnectionsLimit));
    }
  }
  return absl::OkStatus();
}

absl::Status RefuseInsecure(const ListenerOptions& options, const Acceptor& acceptor) {
  if (options.allow_insecure || acceptor.loopback_only()) return absl::OkStatus();
  if (!options.tls) {
    return absl::FailedPreconditionError(
        absl::StrCat("plain text on ", options.address,
                     ", which is not loopback: use TLS with tokens or client certificates, or set "
                     "allow_insecure where the network may "
                     "read along"));
  }
  if (!options.tokens && !options.clients) {
    return absl::FailedPreconditionError(absl::StrCat(
        "neither tokens nor client certificates for ", options.address,
        ", which is not loopback: anybody could take part; set tls to \"token\" or \"mtls\", or "
        "allow_insecure"));
  }
  return absl::OkStatus();
}

std::optional<ServerTls> WhatItAsksFor(const ListenerOptions& options) {
  std::optional<ServerTls> tls = options.tls;
  if (tls) tls->ask_for_certificates = options.clients != nullptr;
  return tls;
}

// One address, one gRPC server, one service.
class Listener {
 public:
  Listener(std::unique_ptr<grpc::Service> service, base::Logger& logger)
      : service_(std::move(service)), logger_(logger) {}
  ~Listener() {
    StopAccepting();
    StopCalls(absl::Now());
  }

  //   ledger  null: this listener's bytes are nobody's
  absl::Status Start(const ListenerOptions& options, const ServerLimits& limits,
                     ledger::Ledger* ledger) {
    QFL_RETURN_IF_ERROR(Validate(options));
    if (options.tls) QFL_RETURN_IF_ERROR(Check(*options.tls, "the certificate", "the key"));
    QFL_ASSIGN_OR_RETURN(acceptor_, Acceptor::Bind({options.address, options.connections_max,
                                                    options.connections_per_host_max},
                                                   ledger, logger_));
    QFL_RETURN_IF_ERROR(RefuseInsecure(options, *acceptor_));

    grpc::ServerBuilder builder;
    ConfigureServer(builder, limits);
    builder.RegisterService(service_.get());
    external_ = builder.experimental().AddExternalConnectionAcceptor(
        grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
        ServerCredentials(WhatItAsksFor(options)));
    server_ = builder.BuildAndStart();
    if (!server_) {
      return absl::InternalError(absl::StrCat("gRPC cannot serve on ", options.address));
    }
    acceptor_->Start([this](int fd) {
      ExternalAcceptor::NewConnectionParameters parameters;
      parameters.fd = fd;
      external_->HandleNewConnection(&parameters);
    });
    return absl::OkStatus();
  }

  uint16_t port() const { return acceptor_->port(); }

  // First this for every listener, so that no client of one waits for the other's grace.
  void StopAccepting() {
    if (acceptor_) acceptor_->Stop();
    if (server_ && server_->GetHealthCheckService() != nullptr) {
      server_->GetHealthCheckService()->SetServingStatus(false);
    }
  }
  void StopCalls(absl::Time deadline) {
    if (!server_) return;
    server_->Shutdown(absl::ToChronoTime(deadline));
    server_->Wait();
    server_.reset();
  }

 private:
  const std::unique_ptr<grpc::Service> service_;
  base::Logger& logger_;
  std::unique_ptr<Acceptor> acceptor_;
  std::unique_ptr<ExternalAcceptor> external_;
  std::unique_ptr<grpc::Server> server_;
};

class ServerImpl final : public Server {
 public:
  ~ServerImpl() override { Shutdown(absl::ZeroDuration()); }

  absl::Status Open(ServerOptions options, const ServerDeps& deps) {
    QFL_CHECK(deps.coordinator != nullptr && deps.ledger != nullptr && deps.logger != nullptr &&
              deps.clock != nullptr);
    PrepareGrpc();
    // Both are gRPC's own switches for every server that is built from here on.
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();

    // Each listener fits itself into the limit; this makes room for both.
    const uint64_t connections = uint64_t{options.federation.connections_max} +
                                 (options.operators ? options.operators->connections_max : 0);
    RaiseDescriptorLimit(connections * kDescriptorsPerConnection + kDescriptorsBesides);
    clients_gate_.emplace(options.federation, Gate::For::kClients, *deps.clock);
    federation_ = std::make_unique<Listener>(
        std::make_unique<FederationService>(FederationContext{
            deps.coordinator, deps.ledger, *clients_gate_, options.codec_header_bytes_max,
            std::make_shared<StreamPlaces>(options.limits.streams_per_client),
            options.limits.handshake_timeout}),
        *deps.logger);
    QFL_RETURN_IF_ERROR(federation_->Start(options.federation, options.limits, deps.ledger));
    if (!options.operators) return absl::OkStatus();
    operators_gate_.emplace(*options.operators, Gate::For::kOperators, *deps.clock);
    operators_ = std::make_unique<Listener>(
        std::make_unique<OperatorService>(deps.coordinator, *operators_gate_,
                                          std::move(options.report)),
        *deps.logger);
    return operators_->Start(*options.operators, options.limits, nullptr);
  }

  uint16_t port() const override { return federation_->port(); }
  uint16_t operator_port() const override { return operators_ ? operators_->port() : 0; }

  void SetAdmission(Admission federation, std::optional<Admission> operators) override {
    clients_gate_->Set(std::move(federation));
    if (operators) {
      QFL_CHECK(operators_gate_.has_value());
      operators_gate_->Set(*std::move(operators));
    }
  }

  void EndExpired() override {
    clients_gate_->EndExpired();
    if (operators_gate_) operators_gate_->EndExpired();
  }

  void Shutdown(absl::Duration grace) override {
    base::MutexLock lock(mutex_);
    const absl::Time deadline = absl::Now() + grace;
    if (federation_) federation_->StopAccepting();
    if (operators_) operators_->StopAccepting();
    if (federation_) federation_->StopCalls(deadline);
    if (operators_) operators_->StopCalls(deadline);
  }

 private:
  base::Mutex mutex_;                                  // one Shutdown at a time
  std::optional<Gate> clients_gate_, operators_gate_;  // set before the listeners start
  std::unique_ptr<Listener> federation_, operators_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(ServerOptions options, ServerDeps deps) {
  auto server = std::make_unique<ServerImpl>();
  QFL_RETURN_IF_ERROR(server->Open(std::move(options), deps));
  return server;
}

}  // namespace quantfl::rpc
