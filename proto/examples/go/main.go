// A client of Tandem in Go: streams one answer, with retries, deadline, cancel, token and TLS.
//
// Only the .proto is needed to make the stubs:
//
//	protoc -I proto --go_out=. --go-grpc_out=. proto/tandem/v1/inference.proto
//
// writes the package tandem/v1; put it where your module finds it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	tandemv1 "tandem/v1"
)

// Retry UNAVAILABLE (the server starts, drains, or has lost a rank). gRPC retries only before the
// first message, so no text arrives twice. (grpc-go before 1.40 needs GRPC_GO_RETRY=on.)
const serviceConfig = `{
  "methodConfig": [{
    "name": [{"service": "tandem.v1.InferenceService"}],
    "retryPolicy": {
      "maxAttempts": 5, "initialBackoff": "0.2s", "maxBackoff": "5s", "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }]
}`

func connect(address, ca string) (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithDefaultServiceConfig(serviceConfig),
		// Notices a server that is gone. The server disconnects clients that ping more often than
		// every 10 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 30 * time.Second, Timeout: 10 * time.Second}),
	}
	if ca == "" {
		options = append(options, grpc.WithInsecure())
	} else {
		transport, err := credentials.NewClientTLSFromFile(ca, "")
		if err != nil {
			return nil, err
		}
		options = append(options, grpc.WithTransportCredentials(transport))
	}
	return grpc.Dial(address, options...)
}

func run() error {
	deadline := flag.Duration("deadline", time.Minute, "for the whole answer")
	patience := flag.Duration("patience", 0, "cancel after so long; 0: never")
	maxTokens := flag.Int("max-tokens", 512, "most tokens of the answer")
	temperature := flag.Float64("temperature", -1, "0 is greedy; below: the model's own")
	ca := flag.String("ca", "", "PEM file that signs the server's certificate")
	flag.Parse()
	if flag.NArg() != 2 {
		return fmt.Errorf("usage: client [FLAGS] ADDRESS QUESTION")
	}
	connection, err := connect(flag.Arg(0), *ca)
	if err != nil {
		return err
	}
	defer connection.Close()

	// The call carries the deadline: the server drops the request when it has passed.
	ctx, cancel := context.WithTimeout(context.Background(), *deadline)
	defer cancel()
	if *patience > 0 {
		// As if the user closed the page. The server frees the request's memory before its next step.
		time.AfterFunc(*patience, cancel)
	}
	if token := os.Getenv("TANDEM_TOKEN"); token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	tokens := int32(*maxTokens)
	sampling := &tandemv1.SamplingParams{MaxTokens: &tokens}
	if *temperature >= 0 {
		value := float32(*temperature)
		sampling.Temperature = &value
	}
	question := flag.Arg(1)
	stream, err := tandemv1.NewInferenceServiceClient(connection).Generate(ctx,
		&tandemv1.GenerateRequest{
			Prompt: &tandemv1.GenerateRequest_Messages{Messages: &tandemv1.ChatPrompt{
				Messages: []*tandemv1.ChatMessage{{Role: "user", Content: &question}}}},
			Sampling: sampling,
		})
	if err != nil {
		return err
	}
	for {
		message, err := stream.Recv()
		if err == io.EOF {
			fmt.Println()
			return nil
		}
		if err != nil {
			fmt.Println()
			return err
		}
		fmt.Print(message.GetText())
	}
}

func main() {
	if err := run(); err != nil {
		if s, ok := status.FromError(err); ok {
			fmt.Fprintf(os.Stderr, "%s: %s\n", s.Code(), s.Message())
		} else {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
}
